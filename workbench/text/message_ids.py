"""The mark by which answers of the scripted model are told from a model's: it stands in the ids of its messages."""

SCRIPTED = "msg_scripted_"
