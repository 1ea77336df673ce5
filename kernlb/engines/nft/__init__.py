"""The nftables table of kernlb as text: what is written to nft, and what nft lists. No process is started here."""
