"""OpenVINO's graph file without what its reader works out by itself.

A graph is written for people and for old readers: every port repeats its shape and precision, every constant has a name
and stands alone. Of a small INT8 model that text outweighs the weights. What is left here is the same format, read by
the same call, and gives the same answers.

Seen in OpenVINO 2026.4: of a port the reader needs the id, of an output port also the precision, and shapes only of
``Parameter`` and ``Const``; the rest it infers.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

_WITHOUT_NAME = frozenset({"Const", "Convert", "FakeQuantize"})
"""Kinds of layers whose names nobody looks for: what quantisation puts between the model's own."""


def compact(text: str) -> str:
    """A graph file (``.xml``) in fewer bytes.

    Shapes and precisions of ports that are inferred, names of inner tensors and of what quantisation added, the tool's
    own record, and constants that are there twice are left out. A graph with bodies of loops is only rid of spaces.

    Args:
        text: As OpenVINO writes it.
    """
    net = ElementTree.fromstring(text)
    layers, edges = net.find("layers"), net.find("edges")
    assert layers is not None
    assert edges is not None
    if net.find(".//body") is None:
        _merge_constants(layers, edges)
        _drop_inferred(layers, edges)
        for record in net.findall("rt_info"):
            net.remove(record)
    for element in net.iter():
        element.tail = None
        element.text = (element.text or "").strip() or None
    return ElementTree.tostring(net, encoding="unicode").replace(" />", "/>")


def _merge_constants(layers: ElementTree.Element, edges: ElementTree.Element) -> None:
    first: dict[tuple[tuple[str, str], ...], str] = {}
    merged: dict[str, str] = {}
    for layer in list(layers):
        data = layer.find("data")
        if layer.get("type") != "Const" or data is None or layer.find("rt_info") is not None:
            continue
        identity, key = layer.get("id", ""), tuple(sorted(data.attrib.items()))
        if key in first:
            merged[identity] = first[key]
            layers.remove(layer)
        else:
            first[key] = identity
    for edge in edges:
        source = edge.get("from-layer", "")
        edge.set("from-layer", merged.get(source, source))


def _drop_inferred(layers: ElementTree.Element, edges: ElementTree.Element) -> None:
    results = {layer.get("id") for layer in layers if layer.get("type") == "Result"}
    answers = {(edge.get("from-layer"), edge.get("from-port")) for edge in edges if edge.get("to-layer") in results}
    for layer in layers:
        for port in layer.iter("port"):
            for dimension in list(port):
                port.remove(dimension)
        for port in layer.findall("input/port"):
            port.attrib.pop("precision", None)
        for port in layer.findall("output/port"):
            if layer.get("type") != "Parameter" and (layer.get("id"), port.get("id")) not in answers:
                port.attrib.pop("names", None)
        if layer.get("type") in _WITHOUT_NAME:
            layer.set("name", layer.get("id", ""))
