"""What all engines of these tests are started with, and how long they may take."""

from __future__ import annotations

#: vLLM is imported in three processes for each engine.
START_S = 240.0
#: The first test waits for all that.
TEST_TIMEOUT_S = START_S + 60.0
DEADLINE_S = 60.0
CONTEXT_LENGTH = 2048
BLOCK_SIZE = 32
NUM_BLOCKS = 128
MAX_NUM_SEQS = 4
ENGINE_OPTIONS = (
    "--dtype", "float32", "--block-size", str(BLOCK_SIZE), "--num-gpu-blocks-override", str(NUM_BLOCKS),
    "--max-num-seqs", str(MAX_NUM_SEQS), "--enforce-eager",
)  # fmt: skip
#: As little of the machine as it can do with, nothing from the network, and nothing told to anybody.
FRUGAL = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "TORCH_COMPILE_DISABLE": "1",
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
