"""The options and help of each command. Heavy packages are imported inside the commands."""
