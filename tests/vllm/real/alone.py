"""vLLM without anything of ours: `python -m tests.vllm.real.alone MODEL_DIRECTORY` prints its answers to the cases."""

from __future__ import annotations

import json
import sys

from tests.vllm.real.cases import CASES


def main(model: str) -> None:
    """Print the token ids of each case, and the log-probabilities of those tokens if it asks for any."""
    from vllm import LLM, SamplingParams

    llm = LLM(
        model,
        dtype="float32",
        max_model_len=2048,
        block_size=32,
        num_gpu_blocks_override=128,
        max_num_seqs=4,
        enforce_eager=True,
    )
    answers = {}
    for case in CASES:
        [output] = llm.generate(
            [{"prompt_token_ids": case.ours.token_ids}], SamplingParams(**case.vllms), use_tqdm=False
        )
        said = output.outputs[0]
        token_ids = list(said.token_ids)
        found = said.logprobs or []
        answers[case.name] = {
            "token_ids": token_ids,
            "finish_reason": said.finish_reason,
            "log_probs": [at[token_id].logprob for token_id, at in zip(token_ids, found, strict=False)],
        }
    sys.stdout.write(f"answers: {json.dumps(answers)}\n")


if __name__ == "__main__":
    main(sys.argv[1])
