"""What does each library's dropout cost, in time and memory, beside a plain copy of x?

`python -m experiments.benchmarks` measures on this machine; `--device=tpu:v5e:4x4` compiles the
same programs for TPUs that are not at hand. A row is a program written once around each library's
dropout (`cases`), so that nothing but the library differs.
"""
