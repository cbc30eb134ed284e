"""The parent of several workers: it binds the sockets, and keeps the workers alive. It knows nothing of MQTT."""
