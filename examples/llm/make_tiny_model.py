"""Make a tiny Llama with random weights: a real model directory of 0.7 MB, made in seconds, without a network.

    python examples/llm/make_tiny_model.py OUT [--layers 2] [--hidden 64] [--seed 0] ...

OUT then holds what every engine and tokenizer library expects: `config.json`, bf16 `model.safetensors`,
`generation_config.json`, a byte-level BPE `tokenizer.json` trained on Python's own standard library, and a
chat template, both as `chat_template.jinja` and inside `tokenizer_config.json`. The weights are random, so
the model talks nonsense; everything around it is real. The same options and library versions give the same
files. A folder with something else in it is never overwritten.

Needs the `transformers` extra (torch, transformers, safetensors).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

#: Says that a folder was made by this script, and with which options.
MARKER = "tiny_model.json"

BOS, EOS, PAD, END_OF_TURN = "<|bos|>", "<|eos|>", "<|pad|>", "<|eot|>"
ROLES = ["<|system|>", "<|user|>", "<|assistant|>", "<|tool|>"]

CHAT_TEMPLATE = """\
{{- bos_token }}
{%- if tools %}
    {{- '<|system|>\\nYou can call these tools:' }}
    {%- for tool in tools %}
        {{- '\\n' + (tool | tojson) }}
    {%- endfor %}
    {{- '<|eot|>' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role not in ['system', 'user', 'assistant', 'tool'] %}
        {{- raise_exception('unknown role: ' + message.role | string) }}
    {%- endif %}
    {{- '<|' + message.role + '|>\\n' }}
    {%- if message.content is string %}
        {{- message.content }}
    {%- else %}
        {%- for part in message.content or [] %}
            {{- part.text }}
        {%- endfor %}
    {%- endif %}
    {%- for call in message.tool_calls or [] %}
        {{- '<tool_call>' + ({'name': call.function.name, 'arguments': call.function.arguments} | tojson) }}
        {{- '</tool_call>' }}
    {%- endfor %}
    {{- '<|eot|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|assistant|>\\n' }}
{%- endif %}
"""

#: Scripts and emoji of many bytes per character, so that a character is often split between two tokens.
FOREIGN = "Grüße, naïve café; 中文字符 日本語のテキスト, русский текст, العربية 🙂🚀👩‍💻\n" * 8
CORPUS_FILES = 120


def main(arguments: list[str] | None = None) -> None:
    """Make the model that the command line asks for, and say what it is."""
    options = read_options(arguments)
    check_target(options.out)
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # before the imports that read it
    tokenizer = make_tokenizer(options.vocab, options.max_len)
    model = make_model(options, tokenizer)
    write(options, model, tokenizer)
    print(
        f"{options.out}: a Llama of {model.num_parameters():,} random bf16 parameters, {options.layers} layers, "
        f"{len(tokenizer)} tokens, context of {options.max_len}"
    )


def read_options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Make a tiny Llama with random weights and its tokenizer.")
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder to make")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--hidden", type=int, default=64, help="size of the hidden state")
    parser.add_argument("--heads", type=int, default=2)
    parser.add_argument("--kv-heads", type=int, default=1)
    parser.add_argument("--head-dim", type=int, default=64, help="engines' CPU kernels refuse some small ones")
    parser.add_argument("--vocab", type=int, default=2048, help="tokens in the vocabulary, at least 300")
    parser.add_argument("--max-len", type=int, default=4096, help="context length in tokens")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random weights")
    return parser.parse_args(arguments)


def check_target(out: Path) -> None:
    """Exit unless `out` is new, empty, or a model that this script made."""
    if out.exists() and not out.is_dir():
        sys.exit(f"{out} is a file; name a folder")
    if out.is_dir() and any(out.iterdir()) and not (out / MARKER).is_file():
        sys.exit(f"{out} is not empty and was not made by this script (it has no {MARKER}); name another folder")


def make_tokenizer(vocab_size: int, max_len: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer: any text can be encoded, and decodes to itself."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = [BOS, EOS, PAD, END_OF_TURN, *ROLES]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=END_OF_TURN, pad_token=PAD,
        chat_template=CHAT_TEMPLATE, model_max_length=max_len, clean_up_tokenization_spaces=False,
    )  # fmt: skip


def corpus() -> Iterator[str]:
    """Yield the standard library's sources: text that every machine has."""
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))[:CORPUS_FILES]:
        yield path.read_text(encoding="utf-8", errors="replace")
    yield FOREIGN


def make_model(options: argparse.Namespace, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Return a Llama whose weights follow from the seed alone."""
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    end_ids = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(EOS)]
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": end_ids, "pad_token_id": tokenizer.pad_token_id}
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=options.hidden, intermediate_size=4 * options.hidden,
        num_hidden_layers=options.layers, num_attention_heads=options.heads, num_key_value_heads=options.kv_heads,
        head_dim=options.head_dim, max_position_embeddings=options.max_len, tie_word_embeddings=True, **ids,
    )  # fmt: skip
    torch.manual_seed(options.seed)
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.generation_config = GenerationConfig(**ids)
    return model


def write(options: argparse.Namespace, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """Write the model directory; the marker comes first, so that an interrupted run can be repeated."""
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    made_with = {name: value for name, value in vars(options).items() if name != "out"}
    (out / MARKER).write_text(json.dumps(made_with, indent=2) + "\n", encoding="utf-8")
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    # Newer libraries read chat_template.jinja, older ones the field of tokenizer_config.json.
    config_path = out / "tokenizer_config.json"
    config = json.loads(config_path.read_text(encoding="utf-8"))
    config["chat_template"] = CHAT_TEMPLATE
    config_path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
