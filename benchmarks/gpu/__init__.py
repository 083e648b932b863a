"""What a GPU does under SGLang, read without changing a setting: ``python -m benchmarks.gpu``."""
