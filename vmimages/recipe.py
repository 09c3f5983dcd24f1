"""What the guest image consists of: packages, kernel modules, what is left out. Data only."""

from __future__ import annotations

FORMAT = 2  # of manifest.json
# Of this recipe, and the first number of an image's version: raised with every release whose image must
# not be replaced by an earlier one, and whenever a package leaves the image.
REVISION = 1
PROTOCOL = 1  # of the link, see proa_guest.wire

# The kernel's package for an architecture, by Debian's names of both.
KERNELS = {"amd64": "linux-image-amd64", "arm64": "linux-image-arm64"}

PACKAGES = (
    "busybox-static",  # the initrd, and the welcome page's server
    "ca-certificates",  # pulls over HTTPS
    "containerd",
    "docker-buildx",
    "docker-cli",
    "docker-compose",
    "docker.io",
    "e2fsprogs",  # the data disk
    "iproute2",
    "iptables",
    "kmod",
    "openssh-server",  # the link's SSH transport
    "python3",  # init and guest agent
    "tini",  # docker run --init
)

# Files (globs below the root) that nothing in the guest uses.
LEFT_OUT = (
    "boot/*",
    "etc/init.d",
    "etc/cron*",
    "etc/kernel",
    "etc/systemd",
    "usr/bin/containerd-shim",  # runtime v1: this containerd starts shims of v2 only
    "usr/bin/containerd-shim-runc-v1",
    "usr/bin/containerd-stress",
    "usr/bin/ctr",
    "usr/bin/perl*",
    "usr/bin/sqv",  # apt's
    "usr/games",
    "usr/include",
    "usr/lib/*-linux-gnu/gconv",
    "usr/lib/*-linux-gnu/perl*",
    "usr/lib/*-linux-gnu/systemd",
    "usr/lib/*-linux-gnu/libapt*",
    "usr/lib/apt",
    "usr/lib/dpkg",
    "usr/lib/init",
    "usr/lib/python3*/ensurepip",
    "usr/lib/python3*/idlelib",
    "usr/lib/python3*/lib2to3",
    "usr/lib/python3*/pydoc_data",
    "usr/lib/python3*/test",
    "usr/lib/python3*/tkinter",
    "usr/lib/systemd",
    "usr/lib/udev",
    "usr/share/bash-completion",
    "usr/share/bug",
    "usr/share/doc/*/changelog*",  # the copyright files stay: licences want to travel with the binaries
    "usr/share/doc-base",
    "usr/share/docker.io",
    "usr/share/info",
    "usr/share/initramfs-tools",
    "usr/share/lintian",
    "usr/share/locale",
    "usr/share/man",
    "usr/share/perl*",
    "usr/share/zsh",
    "usr/bin/systemctl",
    "usr/bin/systemd*",
    "usr/bin/apt*",
    "usr/bin/dpkg*",
    "var/cache/*",
    "var/lib/apt/*",
    "var/lib/dpkg",
    "var/log/*",
)

# Kernel modules by name; what they depend on comes along.
# libcrc32c asks the kernel's crypto for crc32c, which modules.dep does not say (it is a softdep).
INITRD_MODULES = ("crc32c_generic", "virtio_blk", "virtio_scsi", "sd_mod", "erofs", "overlay")

# Loaded by init in one call, so that no service waits for a module.
BOOT_MODULES = (
    "af_packet",
    "br_netfilter",
    "bridge",
    "crc32c_generic",
    "ext4",
    "fuse",
    "ip6table_filter",
    "ip6table_nat",
    "iptable_filter",
    "iptable_mangle",
    "iptable_nat",
    "inet_diag",
    "nf_conntrack",
    "nf_nat",
    "qemu_fw_cfg",
    "tcp_diag",
    "veth",
    "virtio_balloon",
    "virtio_net",
    "virtio_rng",
    "xt_addrtype",
    "xt_conntrack",
    "xt_MASQUERADE",
)

# Beside those: what containers, other hypervisors and later features ask for.
MORE_MODULES = (
    "9p", "9pnet_virtio", "ahci", "cuse", "dm_mod", "dm_thin_pool", "dummy", "esp4", "hv_balloon",
    "hv_netvsc", "hv_sock", "hv_storvsc", "hv_utils", "hv_vmbus", "ip_set", "ip_vs", "ip_vs_rr", "ipip",
    "iptable_raw", "ip6table_mangle", "ip6table_raw", "ipvlan", "isofs", "loop", "macvlan", "nbd",
    "nf_conntrack_netlink", "nf_log_syslog", "nfnetlink_queue", "nfs", "nfsv4", "cifs", "nft_chain_nat",
    "nft_compat", "nft_ct", "nft_masq", "nft_nat", "nf_tables", "sch_htb", "sch_ingress", "sch_netem",
    "sch_tbf", "cls_u32", "cls_bpf", "act_mirred", "squashfs", "tls", "tun", "udp_tunnel", "vfat",
    "virtio_console", "virtiofs", "vmw_pvscsi", "vmw_vsock_virtio_transport",
    "vmw_vsock_vmci_transport", "vmxnet3", "vsock", "vxlan", "wireguard", "xfrm_user", "xt_bpf",
    "xt_comment", "xt_connmark", "xt_CT", "xt_DSCP", "xt_hashlimit", "xt_iprange", "xt_ipvs",
    "xt_limit", "xt_LOG", "xt_mac", "xt_mark", "xt_MARK", "xt_multiport", "xt_nat", "xt_NFLOG",
    "xt_owner", "xt_physdev", "xt_pkttype", "xt_policy", "xt_recent", "xt_REDIRECT", "xt_set",
    "xt_state", "xt_statistic", "xt_string", "xt_tcpmss", "xt_TCPMSS", "xt_tcpudp", "xt_TPROXY",
    "xt_u32", "ipt_REJECT", "ip6t_REJECT", "nls_utf8", "nls_iso8859-1", "algif_hash", "algif_skcipher",
    "crc32c_intel", "libcrc32c", "ghash_clmulni_intel", "aesni_intel", "e1000", "e1000e", "xfs",
    "btrfs",
)  # fmt: skip

# Arguments that the image wants on its kernel's command line, whatever the hypervisor.
# Entropy comes from the processor; the rest saves waits that a virtual machine has no use for.
COMMAND_LINE = "random.trust_cpu=on rcupdate.rcu_expedited=1 cryptomgr.notests no_timer_check"

CLI_FILES = {
    "docker": "usr/bin/docker",
    "cli-plugins/docker-buildx": "usr/libexec/docker/cli-plugins/docker-buildx",
    "cli-plugins/docker-compose": "usr/libexec/docker/cli-plugins/docker-compose",
}
