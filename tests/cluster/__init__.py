"""Real servers on this machine, and what is shown with them: a cluster, kills, a schedule."""
