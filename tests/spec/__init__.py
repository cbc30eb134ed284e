"""Black-box conformance: every test names the normative statements of MQTT that it proves."""
