"""How much of anything a peer can make us hold: every limit on size and count of what goes between processes.

What comes in is measured against these before room is made for it, and whoever exceeds one is told which. They are
constants and not settings: both ends must agree on most of them.

What does not stand here: how long things may take, which is with each wait; what people may want to choose, which is a
setting of the thing itself (how many requests an endpoint takes, how many jobs a queue has); the form of a name or an
address, which is with its parser; how often our own code tries, reads or logs in one go; and what HTTP and the
documents of models may be, which nobody here knows. Depth needs no number: messages have a schema, nothing in one
nests without end, and what goes past the schema is bytes.
"""

from __future__ import annotations

# The request plane: one request, and the items that answer it.

#: The largest request, and the largest item of a response.
MESSAGE_BYTES_MAX = 32 << 20
#: What else a request may carry.
REQUEST_ID_CHARS_MAX = 256
METADATA_BYTES_MAX = 64 << 10
METADATA_ENTRIES_MAX = 1024
#: A response stream may be this far ahead of its reader before its producer is paused.
STREAM_WINDOW_BYTES = 1 << 20
#: What an item weighs in that window besides its bytes, so that empty items are not free.
ITEM_OVERHEAD_BYTES = 16
#: Streams that one connection carries at a time.
STREAMS_MAX = 65536
#: Processes that may be connected at a time.
CONNECTIONS_MAX = 8192
#: Addresses whose reading is remembered.
PEERS_CACHED_MAX = 4096

# The trace that a request belongs to.

#: So much of a tracestate is handed on; the recommendation asks for no less.
TRACESTATE_CHARS_MAX = 512
TRACESTATE_ENTRIES_MAX = 32
#: Longer entries are the first to go.
TRACESTATE_ENTRY_CHARS = 128
#: A longer tracestate is not even looked at.
TRACESTATE_READ_CHARS_MAX = 8192

# The frames that it travels in.

#: A frame holds the largest message, and what one turn of the loop has gathered before it.
FRAME_BYTES_MAX = 40 << 20
#: A frame that takes long comes at least so fast: so many bytes in a second.
FRAME_BYTES_PER_TURN_MIN = 16 << 10
#: All that somebody can send who has yet to prove that he knows the token of the cluster.
HELLO_FRAME_BYTES_MAX = 64 << 10
#: Messages in one frame: a message is small, and far larger in memory than on the wire.
MESSAGES_MAX = 65535
#: Parts of the messages of one frame, for the same reason: items, entries of metadata, layers and details of errors.
#: A frame of ours has a quarter of them at most, as each weighs `ITEM_OVERHEAD_BYTES` in what gathers before it leaves.
FRAME_PARTS_MAX = 65536
#: Parts are counted in frames larger than this: a smaller one holds little, whatever is in it.
SMALL_FRAME_BYTES_MAX = 1 << 20
#: What a peer can do, as its hello says; we know of less, and a newer one may know of more.
CAPABILITIES_MAX = 256
#: A frame leaves early when this much has gathered.
FLUSH_BYTES = 256 << 10
#: What a request weighs in that besides its payload and its metadata.
REQUEST_OVERHEAD_BYTES = 128
#: What a socket may have taken from us and not delivered before producers are paused.
WRITE_BUFFER_BYTES = 1 << 20
#: Not everything waits for the reader: errors do not, nor do requests. A caller takes no more of those beyond the
#: first limit, and a peer that leaves so much unread as the second one says is cut.
UNSENT_REQUESTS_BYTES_MAX = 16 << 20
UNREAD_BYTES_MAX = 64 << 20

# The token of the cluster.

TOKEN_BYTES_MIN = 32
TOKEN_BYTES_MAX = 4096

# Errors on their way to the caller.

#: How deep the chain of causes is, and how much each layer says.
ERROR_CAUSES_MAX = 8
ERROR_MESSAGE_CHARS_MAX = 8192
ERROR_DETAILS_MAX = 32
ERROR_DETAIL_CHARS_MAX = 1024
#: A newer peer may say more; beyond this it is not listened to.
ERROR_LAYERS_READ_MAX = 64
ERROR_DETAILS_READ_MAX = 256

# The event plane.

#: NATS carries 1 MiB, with what we add.
EVENT_BYTES_MAX = 1_000_000
#: With the fields around it.
ENVELOPE_BYTES_MAX = EVENT_BYTES_MAX + 4096
SUBJECT_CHARS_MAX = 1024
#: How many subjects one publisher may use, and how many subscriptions one plane may have.
SUBJECTS_MAX = 1024
SUBSCRIPTIONS_MAX = 512
#: What waits for one slow reader, before the oldest is dropped.
EVENT_QUEUE_EVENTS_MAX = 16384
EVENT_QUEUE_BYTES_MAX = 64 << 20
#: What an event weighs there besides its payload.
EVENT_OVERHEAD_BYTES = 128
#: How many publishers a subscription remembers; the one heard of longest ago is forgotten first.
PUBLISHERS_MAX = 65536
#: How many publishers of zmq: a plane knows from discovery.
CHANNELS_MAX = 16384
#: What ZeroMQ keeps for a listener that is behind, and for us, of each publisher, while Python is busy elsewhere.
ZMQ_SEND_MESSAGES_MAX = 8192
ZMQ_RECEIVE_MESSAGES_MAX = 4096
#: A subscriber sends a publisher nothing but the subjects that it wants.
ZMQ_REQUEST_BYTES_MAX = 4096
#: Bytes that wait for a NATS that is slow; beyond them, events are dropped.
NATS_PENDING_BYTES_MAX = 16 << 20

# The work queue.

#: NATS carries 1 MiB.
JOB_BYTES_MAX = 1_000_000
#: All jobs of one queue.
WORK_QUEUE_BYTES_MAX = 256 << 20
#: Jobs that one process has at the same time, those included that were taken from it again.
WORK_QUEUE_HOLDS_MAX = 16384
#: Consumers that wait at the same time.
WORK_QUEUE_PULLS_MAX = 16384

# Discovery.

KEY_CHARS_MAX = 2048
#: etcd takes 1.5 MiB, with what it adds.
VALUE_BYTES_MAX = 1 << 20
#: Keys of memory:.
MEMORY_KEYS_MAX = 1 << 20
#: file:, in one directory: the leases, and all keys of one of them, which are one file.
FILE_LEASES_MAX = 10_000
FILE_SNAPSHOT_BYTES_MAX = 64 << 20
#: etcd, of one process: its leases, its watches, each of which takes a connection, and the calls that run at a time.
ETCD_LEASES_MAX = 1024
ETCD_WATCHES_MAX = 1024
ETCD_CALLS_MAX = 32
#: The longest answer of etcd that is read, and how much of a refusal is repeated.
ETCD_REPLY_BYTES_MAX = 64 << 20
ETCD_REFUSAL_CHARS_MAX = 200
#: What all keys of a cluster may begin with, where several share one etcd.
ETCD_ROOT_CHARS_MAX = 256
