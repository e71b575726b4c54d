# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What is installed where, by colcon on a robot and by pip in a virtual environment."""

from pathlib import Path

from setuptools import find_packages, setup

PACKAGE = 'qvggt_ros'
SHARE = Path('share') / PACKAGE
BUNDLE_FILES = ('*.json', '*.onnx', '*.npz')


def bundle_files() -> list[tuple[str, list[str]]]:
    """Return (destination, files) of each bundle under engines/, without what was built here."""
    listed = []
    for bundle in sorted(folder for folder in Path('engines').glob('*') if folder.is_dir()):
        files = sorted(str(file) for pattern in BUNDLE_FILES for file in bundle.glob(pattern))
        if files:
            listed.append((str(SHARE / bundle), files))
    return listed


def files_of(folder: str, pattern: str) -> tuple[str, list[str]]:
    """Return (destination, files) of one folder's files that match the pattern."""
    return str(SHARE / folder), sorted(str(file) for file in Path(folder).glob(pattern))


setup(
    name=PACKAGE,
    version='0.1.0',
    packages=find_packages(include=[PACKAGE, f'{PACKAGE}.*']),
    package_data={PACKAGE: ['py.typed']},
    data_files=[
        ('share/ament_index/resource_index/packages', [f'resource/{PACKAGE}']),
        (str(SHARE), ['package.xml']),
        files_of('launch', '*.launch.py'),
        files_of('config', '*.yaml'),
        files_of('rviz', '*.rviz'),
        *bundle_files(),
    ],
    # A robot brings rclpy and the rest as system packages, which pip cannot see: what is needed
    # there stands in package.xml, what is needed elsewhere in requirements/.
    install_requires=['setuptools'],
    extras_require={
        'engine': ['numpy>=1.21', 'onnxruntime>=1.17', 'pillow>=9.0', 'pyyaml', 'rich>=12'],
        # What runs engines on an NVIDIA GPU, beside TensorRT: JetPack's, or `rtx`; and what builds
        # them there. cuda-python has the major version of CUDA.
        'gpu': ['cuda-python>=12.6', 'ml-dtypes>=0.4', 'onnx>=1.16', 'onnx-ir>=0.1'],
        'rtx': ['tensorrt-rtx-cu13'],
        'bags': ['opencv-python-headless>=4.5', 'rosbags>=0.10', 'rosbags-image>=0.10'],
        'report': ['evo>=1.31', 'matplotlib>=3.5', 'scipy>=1.8'],
        'build': [
            'onnx>=1.16',
            'onnxscript>=0.3',
            'safetensors>=0.4',
            'scipy>=1.8',
            'torch>=2.9',
        ],
    },
    python_requires='>=3.10',
    zip_safe=False,
    maintainer='qvggt_ros contributors',
    maintainer_email='maintainers@qvggt-ros.example.com',
    description='Windowed multi-frame 3D reconstruction with quantised VGGT engines for ROS 2',
    license='Apache-2.0',
    entry_points={
        'console_scripts': [
            'qvggt = qvggt_ros.cli:main',
            'reconstruct_node = qvggt_ros.node.reconstruct_node:main',
            'bag_player = qvggt_ros.node.bag_player:main',
        ],
    },
)
