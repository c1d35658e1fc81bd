"""Channels: by which way a notification reaches a subscriber. `port` says what one is; each other file is one."""
