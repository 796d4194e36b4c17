"""Machines with GPUs that clouds rent. No prices: they change, and differ by region.

Numbers of GPUs and vCPUs, and host memory: the providers' pages, "Amazon EC2 accelerated computing
instances", "Compute Engine: GPU machine types", "Azure: sizes, GPU accelerated virtual machines". A GPU's
memory is the total that `nvidia-smi` shows, which is below the advertised number of GB.
"""

from __future__ import annotations

from dataclasses import dataclass

AS_OF = "2026-11"

GPU_MIB = {
    "A10G": 23_028,
    "A10": 23_028,
    "L4": 23_034,
    "L40S": 46_068,
    "A100-40GB": 40_960,
    "A100-80GB": 81_920,
    "H100": 81_559,
    "H100-NVL": 95_830,
    "H200": 143_771,
    "B200": 183_359,
}
"""Total memory of one, in MiB."""


@dataclass(frozen=True, slots=True)
class Instance:
    cloud: str
    name: str
    gpu: str
    n_gpus: int
    n_vcpus: int
    host_gib: int

    @property
    def gpu_bytes(self) -> int:
        """Of one GPU."""
        return GPU_MIB[self.gpu] << 20


INSTANCES = tuple(
    Instance(*row)
    for row in (
        ("aws", "g5.xlarge", "A10G", 1, 4, 16),
        ("aws", "g5.2xlarge", "A10G", 1, 8, 32),
        ("aws", "g5.12xlarge", "A10G", 4, 48, 192),
        ("aws", "g5.48xlarge", "A10G", 8, 192, 768),
        ("aws", "g6.xlarge", "L4", 1, 4, 16),
        ("aws", "g6.2xlarge", "L4", 1, 8, 32),
        ("aws", "g6.12xlarge", "L4", 4, 48, 192),
        ("aws", "g6.48xlarge", "L4", 8, 192, 768),
        ("aws", "g6e.xlarge", "L40S", 1, 4, 32),
        ("aws", "g6e.2xlarge", "L40S", 1, 8, 64),
        ("aws", "g6e.12xlarge", "L40S", 4, 48, 384),
        ("aws", "g6e.48xlarge", "L40S", 8, 192, 1536),
        ("aws", "p4d.24xlarge", "A100-40GB", 8, 96, 1152),
        ("aws", "p4de.24xlarge", "A100-80GB", 8, 96, 1152),
        ("aws", "p5.4xlarge", "H100", 1, 16, 256),
        ("aws", "p5.48xlarge", "H100", 8, 192, 2048),
        ("aws", "p5en.48xlarge", "H200", 8, 192, 2048),
        ("aws", "p6-b200.48xlarge", "B200", 8, 192, 2048),
        ("gcp", "g2-standard-4", "L4", 1, 4, 16),
        ("gcp", "g2-standard-8", "L4", 1, 8, 32),
        ("gcp", "g2-standard-24", "L4", 2, 24, 96),
        ("gcp", "g2-standard-48", "L4", 4, 48, 192),
        ("gcp", "g2-standard-96", "L4", 8, 96, 384),
        ("gcp", "a2-highgpu-1g", "A100-40GB", 1, 12, 85),
        ("gcp", "a2-highgpu-2g", "A100-40GB", 2, 24, 170),
        ("gcp", "a2-highgpu-4g", "A100-40GB", 4, 48, 340),
        ("gcp", "a2-highgpu-8g", "A100-40GB", 8, 96, 680),
        ("gcp", "a2-ultragpu-1g", "A100-80GB", 1, 12, 170),
        ("gcp", "a2-ultragpu-2g", "A100-80GB", 2, 24, 340),
        ("gcp", "a2-ultragpu-4g", "A100-80GB", 4, 48, 680),
        ("gcp", "a2-ultragpu-8g", "A100-80GB", 8, 96, 1360),
        ("gcp", "a3-highgpu-1g", "H100", 1, 26, 234),
        ("gcp", "a3-highgpu-2g", "H100", 2, 52, 468),
        ("gcp", "a3-highgpu-4g", "H100", 4, 104, 936),
        ("gcp", "a3-highgpu-8g", "H100", 8, 208, 1872),
        ("gcp", "a3-ultragpu-8g", "H200", 8, 224, 2952),
        ("azure", "NV36ads_A10_v5", "A10", 1, 36, 440),
        ("azure", "NC24ads_A100_v4", "A100-80GB", 1, 24, 220),
        ("azure", "NC48ads_A100_v4", "A100-80GB", 2, 48, 440),
        ("azure", "NC96ads_A100_v4", "A100-80GB", 4, 96, 880),
        ("azure", "NC40ads_H100_v5", "H100-NVL", 1, 40, 320),
        ("azure", "NC80adis_H100_v5", "H100-NVL", 2, 80, 640),
        ("azure", "ND96isr_H100_v5", "H100", 8, 96, 1900),
        ("azure", "ND96isr_H200_v5", "H200", 8, 96, 1850),
    )
)
