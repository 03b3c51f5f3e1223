"""Every limit of the contract, each with its reason. Sizes of texts are in bytes of UTF-8."""

MAX_BODY_BYTES = 32 * 1024 * 1024  # a set of project files fits; a container holds several bodies at once
MAX_CODE_BYTES = 1024 * 1024  # a program written by a model is thousands of times smaller
MAX_STDIN_BYTES = 16 * 1024 * 1024  # half a body: JSON escapes may double it
MAX_ARGUMENTS = 256
MAX_ARGUMENTS_BYTES = 32 * 1024  # Modal refuses more than 65,536 for one exec; ours come on top
MAX_PATH_BYTES = 1024  # well under PATH_MAX with the mount's prefix
MAX_NAME_BYTES = 255  # NAME_MAX
MAX_PATH_DEPTH = 32  # each component is checked by a call of its own when a file is read
MAX_PROMPT_BYTES = 1024 * 1024  # more than any model reads at once
MAX_SCHEMA_BYTES = 16 * 1024  # the schema is one of several arguments of the CLI
MAX_TOOLS = 64  # tools are arguments, too, each of at most 386 characters
MAX_MCP_BYTES = 64 * 1024  # servers are a few lines each
MAX_JSON_DEPTH = 100  # of lists and objects in a value: pydantic reads 200 with the event around it
MAX_FILES = 1000  # files in one write set
MAX_PATHS = 1000  # paths in one restore
MAX_MESSAGE_BYTES = 16 * 1024  # a commit message
MAX_LOG_ENTRIES = 1000
MAX_LIST_ENTRIES = 10_000
MAX_READ_BYTES = 8 * 1024 * 1024  # a file read through JSON; larger ones belong to the volume API
MAX_RESULT_BYTES = 8 * 1024 * 1024  # a job's result in one event: a diff, a log, a model's answer
MAX_STREAM_TEXT_BYTES = 64 * 1024  # text in one event: readers hold one event in memory
MAX_OUTPUT_BYTES = 256 * 1024 * 1024  # the default limit of what a run may print before it is ended
MAX_WAIT_S = 600  # for a project that another run holds: as long as a job may take by default
MAX_KEY_CHARS = 255  # an Idempotency-Key: a UUID has 36
MAX_TIMEOUT_S = 24 * 3600  # Modal's own limit for a sandbox
MIN_SECRET_CHARS = 16
