"""Types, settings, errors, files and processes that every part of leanloop shares; nothing heavy."""
