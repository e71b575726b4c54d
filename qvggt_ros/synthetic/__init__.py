# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Procedural rooms: rendering, recordings, and the demo model trained on them. Offline."""
