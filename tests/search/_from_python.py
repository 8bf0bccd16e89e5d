"""What calls the subroutines of kernels, which Python cannot call themselves."""

from numba import njit


def from_python(subroutine):
    """Return a function that does what a subroutine does."""

    @njit
    def call(*arguments):
        return subroutine(*arguments)

    return call
