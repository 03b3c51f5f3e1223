"""The endpoint: the Modal app that runs jobs in sandboxes. `app` deploys it, `web` serves it, `runs` executes runs."""

DEFAULT_APP_NAME = "modal-workbench"
