"""Every limit on what one request, or one model directory, may ask of this process.

A request over a limit is refused with `InvalidArgument` before any work is done for it; a model directory
over a limit with `ConfigError` before the file is read. The numbers are far above honest use.
"""

from __future__ import annotations

# A request.
MESSAGES_MAX = 4096
TOOLS_MAX = 512
PROMPTS_MAX = 128  # prompts in one completions request
PROMPT_CHARS_MAX = 16 * 2**20  # of one prompt: as sent, and as rendered by the chat template
CHOICES_MAX = 128  # `n`
LOGPROBS_MAX = 20
STOP_STRINGS_MAX = 16
STOP_STRING_CHARS_MAX = 1024
STOP_TOKEN_IDS_MAX = 256

# Tokenizing off the event loop.
TOKENIZER_THREADS = 2
TOKENIZER_QUEUE_MAX = 256  # prompts that wait for a thread; more are refused as `Overloaded`
ENCODE_INLINE_CHARS_MAX = 4096  # a shorter prompt takes less time than a change of thread

# A text with more characters than this for each token of the context is counted before it is encoded, a part at a time:
# a character costs a microsecond and hundreds of bytes, and most of such texts are far too long.
CHARS_PER_TOKEN = 8
COUNTED_CHARS = 64 * 2**10
CUT_TOKENS_MAX = 256  # a token is cut between two parts, into pieces of a byte at worst

# Decoding.
HELD_TOKENS_MAX = 32  # tokens whose text may be incomplete before it is given up as broken
CONTEXT_TOKENS_MAX = 64  # prompt tokens looked at to decode the first generated one

# The files of a model directory, in bytes.
TOKENIZER_BYTES_MAX = 256 * 2**20
MODEL_CONFIG_BYTES_MAX = 16 * 2**20
CHAT_TEMPLATE_BYTES_MAX = 2**20
MODEL_CARD_BYTES_MAX = 4 * 2**20
USER_DATA_BYTES_MAX = 64 * 2**10  # what whoever registers a model adds to its card
