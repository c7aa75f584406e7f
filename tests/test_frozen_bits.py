"""No bit of any result of the compiled engine changes unasked, on any processor.

`frozen_bits.py` says what is held, and writes the table anew where a change is meant.
"""

import frozen_bits
import processors
import pytest

HELP = "`python tests/frozen_bits.py --write` writes the table anew, where the change is meant"
WIDE, HALVES = ("float32", "float64"), ("float16",)  # bfloat16 too, by its name


@pytest.mark.seconds(1200)  # where the kernels are still to be compiled
@pytest.mark.parametrize(
    ("processor", "dtypes"),
    [
        pytest.param(None, WIDE, id="this machine"),
        # Half of all kernels, which no other fast test compiles.
        pytest.param(None, HALVES, id="this machine, halves", marks=pytest.mark.slow),
        *[pytest.param(p, (), id=p, marks=pytest.mark.slow) for p in processors.PROCESSORS],
    ],
)
def test_no_bit_has_changed(processor, dtypes):
    environment = {}
    if processor is not None:
        if why := processors.missing(processor):
            pytest.skip(why)
        environment = processors.environment(processor)
    found = frozen_bits.run(list(dtypes), **environment)
    column = frozen_bits.column(processors.has_fma(processor))
    changed = frozen_bits.changes(column, found)
    assert found
    assert not changed, (
        f"{len(changed)} of {len(found)} groups have other bits ({column}): "
        f"{'; '.join(changed[:20])}{' ...' * (len(changed) > 20)}. {HELP}"
    )


def test_the_table_has_these_groups_and_no_others():
    names = [name for name, _ in frozen_bits.groups()]
    assert len(names) == len(set(names))
    assert set(names) == set(frozen_bits.table()), HELP
    assert all("float16" in name or any(d in name for d in WIDE) for name in names)
