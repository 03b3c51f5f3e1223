DEFAULT_APP_NAME = "modal-workbench"
