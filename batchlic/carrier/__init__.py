"""The wire: the carrier's messages, who we are to it, the client, and what an answer means."""
