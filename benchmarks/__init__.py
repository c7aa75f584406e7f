"""How fast the losses are, against the machine's own limits and against other libraries.

`python -m benchmarks` measures; `workloads` says what and which bar each must reach, `limits` what
the machine can do, `peers` and `keras_worker` who else computes the same (`worker`: in a process of
its own), `clock` how times are taken, `fresh` what only a new process shows, `host` where it was,
`report` and `pictures` what is made of it.
`python -m benchmarks.states` measures loss, accuracy and top-5 by one call of `partial`.
"""
