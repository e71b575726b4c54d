# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A network as a bundle: ONNX graphs, golden windows, manifest. Offline."""
