"""What an unmodified SGLang wheel needs to serve on a machine without a GPU.

For tests and development alone: `torch_backend` patches torch as it is imported, `engine` adjusts
SGLang, `tiny_model` makes a model that starts in seconds, and the package `sgl_kernel` beside this
one stands in for the compiled kernels. Where torch sees a GPU, nothing is patched.
"""
