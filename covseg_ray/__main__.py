from __future__ import annotations

from covseg_ray.cli.main import main

if __name__ == "__main__":
    main()
