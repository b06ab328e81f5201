"""The parts of the public object do not overwrite each other's methods."""

from itertools import combinations

from mmfm.model import MMFM


def test_no_name_is_defined_twice():
    own = {kind: {n for n in vars(kind) if not n.startswith("__")} for kind in MMFM.__mro__[:-1]}
    for (a, names), (b, others) in combinations(own.items(), 2):
        twice = names & others
        assert not twice, f"{a.__name__} and {b.__name__} both define {sorted(twice)}"
