"""Which of ImageNet's 1,000 classes show an object of each of COCO's 80 categories.

Written by hand from the two lists of names: a class is listed where every picture of it shows such an object. COCO
categories that none of the classes shows (giraffe, kite, fork …) have none.
"""

from __future__ import annotations

_INDICES = {
    "person": "981-983",
    "bicycle": "444 671",
    "car": "436 468 511 609 627 656 661 734 751 817",
    "motorcycle": "665 670",
    "airplane": "404 895",
    "bus": "654 779 874",
    "train": "466 547 565 705 820",
    "truck": "555 569 675 717 864 867",
    "boat": "472 484 510 554 576 625 628 724 780 814 871 914",
    "traffic light": "920",
    "stop sign": "919",
    "parking meter": "704",
    "bench": "703",
    "bird": "7-24 80-100 127-146",
    "cat": "281-285",
    "dog": "151-268",
    "horse": "339",
    "sheep": "348 349",
    "cow": "345",
    "elephant": "101 385 386",
    "bear": "294-297",
    "zebra": "340",
    "backpack": "414",
    "umbrella": "879",
    "handbag": "748",
    "tie": "457 906",
    "skis": "795",
    "sports ball": "429 430 522 574 722 768 805 852 890",
    "kite": "",  # the class of that name is a bird
    "tennis racket": "752",
    "bottle": "440 720 737 898 907",
    "wine glass": "572",
    "cup": "504 647 968",
    "knife": "499 623",
    "spoon": "910",
    "bowl": "659 809",
    "banana": "954",
    "apple": "948",
    "sandwich": "933",
    "orange": "950",
    "broccoli": "937",
    "hot dog": "934",
    "pizza": "963",
    "chair": "423 559 765 857",
    "couch": "831",
    "potted plant": "738",
    "bed": "564",
    "dining table": "532",
    "toilet": "861",
    "tv": "664 782 851",
    "laptop": "620 681",
    "mouse": "673",
    "remote": "761",
    "keyboard": "508",
    "cell phone": "487",
    "microwave": "651",
    "oven": "827",
    "toaster": "859",
    "sink": "896",
    "refrigerator": "760",
    "book": "917 921",
    "clock": "409 530 892",
    "vase": "883",
    "teddy bear": "850",
    "hair drier": "589",
}


def imagenet_classes() -> dict[str, tuple[int, ...]]:
    """Indices of ImageNet classes by COCO category; categories without one are left out, but for one that a class of
    another thing is called like: that has none."""
    return {name: tuple(_numbers(text)) for name, text in _INDICES.items()}


def _numbers(text: str) -> list[int]:
    found: list[int] = []
    for part in text.split():
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found
