"""Real traffic between network namespaces of this machine: a client, a director, real servers, and what happens."""
