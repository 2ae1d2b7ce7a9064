from __future__ import annotations

import subprocess
import sys


def _python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_torchvision_imports_after_it_in_a_fresh_interpreter():
    code = (
        "from covseg_ray.segmentation.network.torchvision_operators import ensure_operators\n"
        "import sys\n"
        "assert 'torchvision' not in sys.modules\n"
        "assert ensure_operators() is ensure_operators()\n"
        "import torchvision, torch\n"
        "print(hasattr(torch.ops.torchvision, 'nms'), hasattr(torch.ops.torchvision, 'qnms'))"
    )
    assert _python(code) == "True True"


def test_importing_the_room_does_not_import_the_library():
    code = (
        "import covseg_ray.segmentation.inference.predictor, covseg_ray.segmentation.training.losses, sys\n"
        "print([name for name in ('torchvision', 'segmentation_models_pytorch', 'ray') if name in sys.modules])"
    )
    assert _python(code) == "[]"


def test_what_the_library_brings_is_not_collected_again_and_the_rest_still_is():
    code = (
        "import gc\n"
        "from covseg_ray.segmentation.network.torchvision_operators import smp\n"
        "library = smp()\n"
        "frozen = gc.get_freeze_count()\n"
        "print(library.__name__, gc.isenabled(), frozen > 100_000)\n"
        "print(smp() is library, gc.get_freeze_count() == frozen)"
    )
    assert _python(code) == "segmentation_models_pytorch True True\nTrue True"


def test_where_nothing_is_collected_nothing_is_after_it():
    code = (
        "import gc; gc.disable();"
        "from covseg_ray.segmentation.network.torchvision_operators import smp; smp(); print(gc.isenabled())"
    )
    assert _python(code) == "False"
