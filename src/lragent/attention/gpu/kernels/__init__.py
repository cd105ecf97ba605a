"""The Triton kernels; their launches are beside this folder."""
