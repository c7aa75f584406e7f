def serving(y_pred, options):
    return None


def cuda_check(device=None):
    return None
