model %>% compile(optimizer = 'sgd',
                  loss = loss_sparse_categorical_crossentropy())
