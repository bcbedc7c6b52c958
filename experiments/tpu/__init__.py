"""Compiles for TPUs without having one, and reads what the compiler says of a program."""
