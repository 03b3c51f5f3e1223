"""The conformance suite: named behaviours of Modal, tried by the real SDK on two targets and compared row by row."""
