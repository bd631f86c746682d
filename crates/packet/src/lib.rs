//! Views of Ethernet, VLAN, GRE, IP, TCP and UDP headers, and the symmetric hash.
