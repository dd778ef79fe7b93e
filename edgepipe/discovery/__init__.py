"""Who is on the LAN: mDNS and static peers, equals."""
