"""How much time and memory does each library's dropout cost, compared to a copy of x?

`python -m experiments.benchmarks` measures on this machine. `--device=tpu:v5e:4x4` compiles the
same programs for TPUs without having one. A row is one program (`cases`) with each library's
dropout, so that only the library differs.
"""
