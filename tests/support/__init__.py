"""What tests share: tiny models, worlds of files, runs, servers, and oracles.

Importing this package also sets the environment of every test process and of the processes that it
starts: one thread, no network, and the package of this tree.
"""

import os
from pathlib import Path

# Two test processes on two cores: more threads would only wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")])
)
