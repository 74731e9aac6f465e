import pytest
import torch


@pytest.fixture(autouse=True, scope="package")
def one_thread():
    """Operations this small only wait for each other on several threads, most of all where cores are shared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
