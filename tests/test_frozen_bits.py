"""No bit of any result of the compiled engine changes unasked, on any processor.

`frozen_bits.py` says what is held, and writes the table anew where a change is meant.
"""

import frozen_bits
import processors
import pytest

HELP = "`python tests/frozen_bits.py --write` writes the table anew, where the change is meant"


@pytest.mark.seconds(1200)  # where the kernels are still to be compiled
@pytest.mark.parametrize(
    "processor",
    [
        pytest.param(None, id="this machine"),
        *[pytest.param(name, marks=pytest.mark.slow) for name in processors.PROCESSORS],
    ],
)
def test_no_bit_has_changed(processor):
    environment = {}
    if processor is not None:
        if why := processors.missing(processor):
            pytest.skip(why)
        environment = processors.environment(processor)
    found = frozen_bits.run([], **environment)
    column = frozen_bits.column(processors.has_fma(processor))
    changed = frozen_bits.changes(column, found, whole=True)
    assert not changed, (
        f"{len(changed)} of {len(found)} groups have other bits ({column}): "
        f"{'; '.join(changed[:20])}{' ...' * (len(changed) > 20)}. {HELP}"
    )
