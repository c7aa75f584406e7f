"""What fits the loss into other libraries: one module each, which imports nothing of theirs.

`boosting` has objectives for XGBoost and LightGBM, `sklearn` a scorer for scikit-learn. `keras`
alone imports its library, for it has classes of Keras's own kinds.
"""
