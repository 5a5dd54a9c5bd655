"""The addresses of the one-node cluster. They exist in its own network namespace alone."""

NODE = "full-node"
NODE_IP = "192.0.2.10"
"""From the range for documentation (RFC 5737): never anybody's."""
POD_CIDR = "10.244.0.0/24"
SERVICE_CIDR = "10.96.0.0/16"
SERVICE_DNS_DOMAIN = "cluster.local"
BRIDGE = "node0"
API_PORT = 6443
ETCD_PORT = 2379
ETCD_PEER_PORT = 2380
