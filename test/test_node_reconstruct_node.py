# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The node over real DDS, with a real engine: lifecycle, outputs, services, and what goes wrong.

The network is small and its weights are random: geometry means nothing here, the plumbing does.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import camera_bags
import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseWithCovarianceStamped
from nav_msgs.msg import Odometry
from nav_msgs.msg import Path as PathMessage
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from ros_harness import MANY, Ros, command, process, ros, run_to_end, stop
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from small_networks import SMALL_FRAMES, small_bundle
from std_srvs.srv import SetBool, Trigger

from qvggt_ros.node import tf_output
from qvggt_ros.node.messages import POINT_DTYPE, header, stamp_to_ns
from qvggt_ros.node.reconstruct_node import ReconstructNode
from qvggt_ros.node.tf_output import TFMessage
from qvggt_ros.reconstruction.frames import STAGES

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
TOPIC = '/reconstruct'
needs_tf = pytest.mark.skipif(
    TFMessage is None, reason='tf2_msgs was not built: make env says what it lacks'
)


@pytest.fixture
def made() -> Iterator[Ros]:
    with ros() as context:
        yield context


def new_node(made: Ros, **overrides: Any) -> ReconstructNode:
    values = {'bundle': str(small_bundle()), 'threads': 1, 'flush_after_s': 0.3, **overrides}
    parameters = [Parameter(name, value=value) for name, value in values.items()]
    node: ReconstructNode = made.add(
        ReconstructNode(context=made.context, parameter_overrides=parameters)
    )
    return node


def image_message(index: int, encoding: str = 'rgb8') -> Image:
    source = camera_bags.image(index, encoding)
    return Image(
        header=header(camera_bags.stamp_of(index), camera_bags.FRAME_ID),
        height=source.height,
        width=source.width,
        encoding=encoding,
        step=source.step,
        data=array('B', source.data.tobytes()),
    )


class Camera:
    """Publishes frames and waits until the node has taken them."""

    def __init__(self, made: Ros, node: ReconstructNode, qos: QoSProfile = MANY) -> None:
        self._made = made
        self._node = node
        self.publisher = made.node.create_publisher(Image, 'image_raw', qos)
        self.wait_until_heard()

    def wait_until_heard(self) -> None:
        """Wait for the node's final subscription: its first is best effort."""
        self._made.until(lambda: self.publisher.get_subscription_count() == 1)
        self._made.spin(0.8)
        self._made.until(lambda: self.publisher.get_subscription_count() == 1)

    def send(self, indices: range, **changes: Any) -> None:
        for index in indices:
            message = image_message(index)
            for name, value in changes.items():
                setattr(message, name, value)
            self.publisher.publish(message)
            self._made.spin(0.01)


def activate(node: ReconstructNode) -> None:
    assert node.trigger_configure() == SUCCESS
    assert node.trigger_activate() == SUCCESS


def deactivate(node: ReconstructNode) -> None:
    assert node.trigger_deactivate() == SUCCESS
    assert node.trigger_cleanup() == SUCCESS


def stamps(messages: list[Any]) -> list[int]:
    return [stamp_to_ns(message.header.stamp) for message in messages]


def expected_stamps(count: int) -> list[int]:
    return [camera_bags.stamp_of(index) for index in range(count)]


@needs_tf
def test_every_frame_has_one_pose_in_every_output(made: Ros) -> None:
    count = 9
    poses = made.heard(PoseWithCovarianceStamped, f'{TOPIC}/pose')
    odometry = made.heard(Odometry, f'{TOPIC}/odometry')
    transforms = made.heard(TFMessage, '/tf')
    clouds = made.heard(PointCloud2, f'{TOPIC}/points')
    paths = made.heard(PathMessage, f'{TOPIC}/path', LATCHED)
    maps = made.heard(PointCloud2, f'{TOPIC}/map', LATCHED)
    node = new_node(made, map_period_s=0.2)
    activate(node)
    Camera(made, node).send(range(count))
    made.until(lambda: len(poses) == len(odometry) == count and bool(maps))
    made.until(lambda: bool(paths) and len(paths[-1].poses) == count)

    assert stamps(poses) == stamps(odometry) == stamps(paths[-1].poses) == expected_stamps(count)
    assert {message.header.frame_id for message in poses + clouds + maps} == {'map'}
    assert {message.child_frame_id for message in odometry} == {camera_bags.FRAME_ID}
    sent = [transform for message in transforms for transform in message.transforms]
    assert stamps(sent) == expected_stamps(count)
    for transform, pose in zip(sent, poses, strict=True):
        assert transform.header.frame_id == 'map'
        assert transform.child_frame_id == camera_bags.FRAME_ID
        assert transform.transform.rotation == pose.pose.pose.orientation
        moved = transform.transform.translation
        position = pose.pose.pose.position
        assert (moved.x, moved.y, moved.z) == (position.x, position.y, position.z)
    # the first camera is the map's origin, looking along x with z up
    first = poses[0].pose.pose
    np.testing.assert_allclose(
        [first.position.x, first.position.y, first.position.z], 0, atol=1e-6
    )
    turned = [first.orientation.x, first.orientation.y, first.orientation.z, first.orientation.w]
    np.testing.assert_allclose(np.abs(turned), 0.5, atol=1e-6)
    assert all(pose.pose.covariance[i * 7] > 0 for pose in poses for i in range(6))
    # a window's cloud carries the stamp of its newest frame: 3 frames, then one more each
    assert stamps(clouds) == expected_stamps(count)[SMALL_FRAMES - 1 :]
    for cloud in clouds:
        points = np.frombuffer(cloud.data, POINT_DTYPE)
        assert len(points) == cloud.width > 0
        assert np.isfinite(points['x']).all() and (points['confidence'] >= 1).all()
        assert (points['zero'] == 0).all()
    deactivate(node)


def test_lifecycle_twice_in_a_row_forgets_in_between(made: Ros) -> None:
    poses = made.heard(PoseWithCovarianceStamped, f'{TOPIC}/pose')
    node = new_node(made)
    for _ in range(2):
        poses.clear()
        activate(node)
        camera = Camera(made, node)
        camera.send(range(4))
        made.until(lambda: len(poses) == 4)
        made.node.destroy_publisher(camera.publisher)
        deactivate(node)
        assert stamps(poses) == expected_stamps(4)
        assert poses[0].pose.pose.position.x == pytest.approx(0, abs=1e-6)  # a new map
        assert made.node.count_publishers(f'{TOPIC}/pose') == 0


def test_deactivate_and_activate_again_without_cleanup(made: Ros) -> None:
    poses = made.heard(PoseWithCovarianceStamped, f'{TOPIC}/pose')
    node = new_node(made, flush_after_s=0.0)
    activate(node)
    camera = Camera(made, node)
    camera.send(range(2))  # not enough for a window
    assert node.trigger_deactivate() == SUCCESS
    made.until(lambda: camera.publisher.get_subscription_count() == 0)
    assert node.trigger_activate() == SUCCESS
    camera.wait_until_heard()
    camera.send(range(2, 5))
    made.until(lambda: len(poses) == 3)
    assert stamps(poses) == expected_stamps(5)[2:]  # what came before is forgotten


def test_diagnostics_have_all_stages_and_the_truth(made: Ros) -> None:
    arrays = made.heard(DiagnosticArray, '/diagnostics')
    poses = made.heard(PoseWithCovarianceStamped, f'{TOPIC}/pose')
    node = new_node(made)
    activate(node)
    Camera(made, node).send(range(6))
    made.until(lambda: len(poses) == 6)
    arrays.clear()
    made.until(lambda: len(arrays) >= 2)
    values = {pair.key: pair.value for status in arrays[-1].status for pair in status.values}
    for stage in ('convert', *STAGES, 'publish', 'total', 'received_to_published'):
        p50, p95, p99 = (float(values[f'{stage}_p{p}_ms']) for p in (50, 95, 99))
        assert 0 <= p50 <= p95 <= p99
    assert values['frames_received'] == values['poses'] == '6'
    assert values['windows'] == '4' and values['frames_dropped'] == values['errors'] == '0'
    assert values['engine_bundle'] == 'small'
    assert {'scale', 'residual', 'inlier_share', 'input_rate_hz'} <= set(values)
    # stamps of another clock have no age
    assert 'age_at_publish_p50_ms' not in values


def test_age_is_measured_where_stamps_are_of_this_clock(made: Ros) -> None:
    arrays = made.heard(DiagnosticArray, '/diagnostics')
    node = new_node(made)
    activate(node)
    camera = Camera(made, node)
    for index in range(4):
        message = image_message(index)
        message.header.stamp = made.node.get_clock().now().to_msg()
        camera.publisher.publish(message)
        made.spin(0.02)

    def age() -> list[float]:
        pairs = [pair for array in arrays for status in array.status for pair in status.values]
        return [float(pair.value) for pair in pairs if pair.key == 'age_at_publish_p50_ms']

    made.until(lambda: bool(age()))
    assert 0 < age()[-1] < 10_000


def test_without_a_clock_map_and_diagnostics_come_and_say_so(made: Ros) -> None:
    arrays = made.heard(DiagnosticArray, '/diagnostics')
    maps = made.heard(PointCloud2, f'{TOPIC}/map', LATCHED)
    node = new_node(made, use_sim_time=True, map_period_s=0.5)
    activate(node)
    Camera(made, node).send(range(6))
    made.until(lambda: bool(maps and maps[-1].width))
    arrays.clear()
    made.until(lambda: bool(arrays))
    found = {status.name: status for status in arrays[-1].status}['reconstruct: input']
    assert 'no time has come on /clock' in found.message and found.level == b'\x01'


def test_waiting_frames_get_their_poses_after_silence(made: Ros) -> None:
    poses = made.heard(PoseWithCovarianceStamped, f'{TOPIC}/pose')
    node = new_node(made, window_frames=6, stride=3)
    activate(node)
    Camera(made, node).send(range(8))
    made.until(lambda: len(poses) == 8)
    assert stamps(poses) == expected_stamps(8)


def test_services_pause_reset_and_save(made: Ros, tmp_path: Path) -> None:
    poses = made.heard(PoseWithCovarianceStamped, f'{TOPIC}/pose')
    node = new_node(made, save_map_path=str(tmp_path / 'map.ply'))
    activate(node)
    camera = Camera(made, node)
    camera.send(range(4))
    made.until(lambda: len(poses) == 4)
    saved = made.call(Trigger, f'{TOPIC}/save_map', Trigger.Request())
    assert saved.success and str(tmp_path / 'map.ply') in saved.message
    assert (tmp_path / 'map.ply').read_bytes().startswith(b'ply\nformat binary_little_endian')
    made.call(SetBool, f'{TOPIC}/pause', SetBool.Request(data=True))
    camera.send(range(4, 8))
    made.spin(0.3)
    assert len(poses) == 4
    made.call(SetBool, f'{TOPIC}/pause', SetBool.Request(data=False))
    assert made.call(Trigger, f'{TOPIC}/reset', Trigger.Request()).success
    camera.send(range(8, 11))
    made.until(lambda: len(poses) == 7)
    assert stamps(poses)[4:] == [camera_bags.stamp_of(i) for i in (8, 9, 10)]
    assert poses[4].pose.pose.position.x == pytest.approx(0, abs=1e-6)  # a new map


def test_a_map_that_cannot_be_saved_is_told(made: Ros, tmp_path: Path) -> None:
    node = new_node(made, save_map_path=str(tmp_path / 'absent' / 'map.ply'))
    activate(node)
    saved = made.call(Trigger, f'{TOPIC}/save_map', Trigger.Request())
    assert not saved.success and 'cannot be written' in saved.message


@needs_tf
def test_parameters_change_while_running(made: Ros) -> None:
    transforms = made.heard(TFMessage, '/tf')
    clouds = made.heard(PointCloud2, f'{TOPIC}/points')
    poses = made.heard(PoseWithCovarianceStamped, f'{TOPIC}/pose')
    node = new_node(made)
    activate(node)
    camera = Camera(made, node)
    camera.send(range(4))
    made.until(lambda: len(clouds) == 2 and len(transforms) == 2)
    changes: list[Parameter] = [
        Parameter('publish_tf', value=False),
        Parameter('max_points', value=100),
    ]
    assert all(result.successful for result in node.set_parameters(changes))
    made.spin(1.2)  # housekeeping applies
    camera.send(range(4, 6))
    made.until(lambda: len(poses) == 6 and len(clouds) == 4)
    assert len(transforms) == 2
    assert 0 < clouds[-1].width <= 100 < clouds[1].width


def test_calibration_never_blocks_and_is_used(made: Ros) -> None:
    node = new_node(made)
    poses = made.heard(PoseWithCovarianceStamped, f'{TOPIC}/pose')
    infos = made.node.create_publisher(CameraInfo, 'camera_info', MANY)
    activate(node)
    camera = Camera(made, node)
    camera.send(range(3))
    made.until(lambda: len(poses) == 3)
    k = [60.0, 0.0, 35.0, 0.0, 60.0, 28.0, 0.0, 0.0, 1.0]
    infos.publish(CameraInfo(width=camera_bags.WIDTH, height=camera_bags.HEIGHT, k=k))
    made.until(
        lambda: node._calibration.intrinsics_for(camera_bags.WIDTH, camera_bags.HEIGHT) is not None
    )
    camera.send(range(3, 5))
    made.until(lambda: len(poses) == 5)


@pytest.mark.parametrize('offered', [ReliabilityPolicy.BEST_EFFORT, ReliabilityPolicy.RELIABLE])
def test_images_are_heard_however_they_are_offered(made: Ros, offered: ReliabilityPolicy) -> None:
    poses = made.heard(PoseWithCovarianceStamped, f'{TOPIC}/pose')
    node = new_node(made)
    activate(node)
    camera = Camera(made, node, QoSProfile(depth=10, reliability=offered))
    (subscription,) = made.node.get_subscriptions_info_by_topic('/image_raw')
    assert subscription.qos_profile.reliability == offered
    camera.send(range(4))
    made.until(lambda: len(poses) == 4)


def test_without_tf2_msgs_all_else_is_published(
    made: Ros, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tf_output, 'TFMessage', None)
    poses = made.heard(PoseWithCovarianceStamped, f'{TOPIC}/pose')
    node = new_node(made)
    activate(node)
    Camera(made, node).send(range(3))
    made.until(lambda: len(poses) == 3)
    assert made.node.count_publishers('/tf') == 0
    deactivate(node)


@needs_tf
def test_images_without_frame_id_have_poses_but_no_transform(made: Ros) -> None:
    poses = made.heard(PoseWithCovarianceStamped, f'{TOPIC}/pose')
    transforms = made.heard(TFMessage, '/tf')
    node = new_node(made)
    activate(node)
    camera = Camera(made, node)
    for index in range(3):
        camera.send(range(index, index + 1), header=header(camera_bags.stamp_of(index), ''))
    made.until(lambda: len(poses) == 3)
    assert transforms == []


def test_incompatible_qos_is_told_with_what_to_look_at(made: Ros) -> None:
    arrays = made.heard(DiagnosticArray, '/diagnostics')
    node = new_node(made, image_reliability='reliable')
    activate(node)
    best_effort = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
    made.node.create_publisher(Image, 'image_raw', best_effort)

    def told() -> bool:
        messages = [status.message for array in arrays for status in array.status]
        return any('offers another RELIABILITY than is asked for' in text for text in messages)

    made.until(told)


def test_compressed_images_are_taken_where_asked_for(made: Ros) -> None:
    poses = made.heard(PoseWithCovarianceStamped, f'{TOPIC}/pose')
    publisher = made.node.create_publisher(CompressedImage, 'image_raw/compressed', MANY)
    node = new_node(made, image_transport='compressed')
    activate(node)
    made.spin(0.8)
    made.until(lambda: publisher.get_subscription_count() == 1)
    for index in range(4):
        source = camera_bags.compressed_image(index)
        message = CompressedImage(format='png', data=array('B', source.data.tobytes()))
        message.header = header(camera_bags.stamp_of(index), camera_bags.FRAME_ID)
        publisher.publish(message)
        made.spin(0.02)
    made.until(lambda: len(poses) == 4)


def test_qos_overrides_are_honoured(made: Ros) -> None:
    override = {'qos_overrides./image_raw.subscription.reliability': 'reliable'}
    node = new_node(made, image_reliability='best_effort', **override)
    activate(node)
    made.until(lambda: made.node.count_subscribers('/image_raw') == 1)
    (subscription,) = made.node.get_subscriptions_info_by_topic('/image_raw')
    assert subscription.qos_profile.reliability == ReliabilityPolicy.RELIABLE


@pytest.mark.parametrize(
    'spoil',
    [
        lambda folder: (folder / 'window.onnx').unlink(),
        lambda folder: (folder / 'depth.onnx').write_bytes(b'other bytes'),
        lambda folder: (folder / 'manifest.json').unlink(),
    ],
    ids=['missing graph', 'wrong digest', 'no manifest'],
)
def test_bad_bundle_fails_to_configure_and_a_good_one_then_works(
    made: Ros, spoil: Callable[[Path], object], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(small_bundle(), tmp_path / 'bundle'))
    spoil(folder)
    node = new_node(made, bundle=str(folder))
    assert node.trigger_configure() == FAILURE
    assert made.node.count_publishers(f'{TOPIC}/pose') == 0
    shutil.rmtree(folder)
    shutil.copytree(small_bundle(), folder)
    activate(node)


def standalone(**parameters: Any) -> list[str]:
    values = {'bundle': small_bundle(), 'autostart': True, 'threads': 1, **parameters}
    return command('reconstruct_node', **values)


def own_lines(said: str) -> list[str]:
    """Return what the node itself said; rcl adds a line to what it cannot parse."""
    other = (' loading ', '[rcl]', 'tf2_msgs is not installed')
    return [line for line in said.splitlines() if not any(word in line for word in other)]


@pytest.mark.parametrize(
    ('parameters', 'words'),
    [
        ({'bundle': '/nowhere'}, '/nowhere'),
        ({'bundle': ''}, "override rule: '-p bundle:='"),
        ({'engine': 'abacus'}, "engine is 'abacus'"),
        ({'stride': 3}, 'stride 3 with a window of 3'),
        ({'max_voxels': 0}, 'max_voxels'),
        ({'voxel_size': 'wide'}, 'voxel_size'),
        ({'preprocess_mode': 'stretch'}, "'stretch'"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bad_start_is_one_line_and_status_2(parameters: dict[str, Any], words: str) -> None:
    status, said = run_to_end(standalone(**parameters))
    lines = own_lines(said)
    assert status == 2 and 'Traceback' not in said
    assert len(lines) == 1 and words in lines[0], said


def test_bad_parameter_file_is_one_line_and_status_2(tmp_path: Path) -> None:
    path = tmp_path / 'broken.yaml'
    path.write_text('/**: {ros__parameters: [}')
    status, said = run_to_end(command('reconstruct_node', '--params-file', str(path)))
    assert status == 2 and 'Traceback' not in said
    assert len(own_lines(said)) == 1 and str(path) in said


def test_start_without_a_bundle_says_so() -> None:
    status, said = run_to_end(command('reconstruct_node', autostart=True))
    assert status == 2 and 'parameter bundle is empty' in said and len(own_lines(said)) == 1


def test_standalone_is_ready_soon_and_ends_when_interrupted() -> None:
    with process(standalone(image_timeout_s=0.5)) as child:
        assert child.stdout is not None
        started_s, said_at_s = time.monotonic(), {}
        lines: list[str] = []
        while not any('no image on /image_raw' in line for line in lines):
            lines.append(child.stdout.readline())
            assert lines[-1], ''.join(lines)
            for words in (' loading ', ' engine loaded ', ' ready: '):
                if words in lines[-1]:
                    said_at_s[words] = time.monotonic() - started_s
        assert said_at_s[' ready: '] - said_at_s[' engine loaded '] < 2
        ready = [line for line in lines if ' ready: ' in line]
        assert len(ready) == 1
        for words in (
            'small (fp32)',
            'window of 3 frames',
            '35x28',
            '/image_raw',
            f'{TOPIC}/points',
        ):
            assert words in ready[0]
        rest = stop(child)
        assert child.returncode == 0 and 'Traceback' not in rest


def test_the_node_loads_nothing_heavy() -> None:
    code = (
        'import sys, qvggt_ros.node.reconstruct_node, qvggt_ros.node.bag_player\n'
        'heavy = {"torch", "onnx", "scipy", "matplotlib", "pandas"} & set(sys.modules)\n'
        'offline = {m for m in sys.modules if m.startswith("qvggt_ros.") and m.split(".")[1] in '
        '("vggt", "quantization", "export", "evaluation", "synthetic")}\n'
        'sys.exit(f"loaded {heavy | offline}" if heavy | offline else 0)'
    )
    subprocess.run([sys.executable, '-c', code], check=True)
