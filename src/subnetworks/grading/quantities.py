"""Numbers with their units, read exactly: what may be compared without any algebra."""

import re
from dataclasses import dataclass
from fractions import Fraction

LARGEST_EXPONENT = 300
ENOUGH_DIGITS = 6  # a decimal of so many significant digits may be given for what it rounds

_WHOLE = r"\d{1,3}(?:,\d{3})+|\d{1,3}(?: \d{3})+|\d+"
_DECIMAL = rf"(?:{_WHOLE})?\.\d+|(?:{_WHOLE})\.?"
_NUMBER = re.compile(rf"({_DECIMAL})")
_REPEATING = re.compile(
    r"(\d*)\.(\d*)\s*(?:\\overline\s*\{\s*(\d+)\s*\}|\\dot\s*\{?(\d)\}?|\((\d+)\))"
)
_DOTS = re.compile(r"(\d*\.\d+)\s*\\ldots")
_SIGNED = rf"[+-]?\s*(?:{_DECIMAL})"
_FRACTION = re.compile(
    rf"\\frac\s*\{{\s*({_SIGNED})\s*\}}\s*\{{\s*({_SIGNED})\s*\}}|\(?({_SIGNED})\)?\s*/\s*\(?({_SIGNED})\)?"
)
_MIXED = re.compile(r"(\d+)\s*(\\frac\s*\{\s*\d+\s*\}\s*\{\s*\d+\s*\})|(\d+) (\d+\s*/\s*\d+)")
_SCIENTIFIC = re.compile(
    rf"({_DECIMAL})\s*(?:(?:\\times|\\cdot|\*)\s*10\s*\^\s*\{{?\s*([+-]?\d+)\s*\}}?|[eE]([+-]?\d+))"
)


@dataclass(frozen=True)
class Number:
    """An exact number; `places` after the point where it was written as a decimal, else None."""

    value: Fraction
    places: int | None = None

    def equals(self, other: "Number") -> bool:
        """Whether they are equal, or one is the other rounded to six digits or more."""
        return self.value == other.value or self._rounds(other) or other._rounds(self)

    def _rounds(self, exact: "Number") -> bool:
        if self.places is None or exact.places is not None:
            return False
        digits = abs(self.value.numerator * 10**self.places // self.value.denominator)
        enough = digits >= 10 ** (ENOUGH_DIGITS - 1)
        return enough and round(exact.value, self.places) == self.value


def number(text: str) -> Number | None:
    """The number that is written, and nothing else: whole, decimal, repeating, fraction, mixed or
    scientific. Thousands may be parted by commas or spaces, in threes.

    Returns:
        None for anything else, `1 2` among it.
    """
    text = text.strip()
    while text[:1] == "(" and text[-1:] == ")" and "(" not in text[1:] and ")" not in text[:-1]:
        text = text[1:-1].strip()
    sign = 1
    if text[:1] in ("+", "-"):
        sign, text = (-1 if text[0] == "-" else 1), text[1:].strip()
    if len(text) > 1000:
        return None
    found = _unsigned(text)
    return Number(sign * found.value, found.places) if found else None


def _unsigned(text: str) -> Number | None:
    if _NUMBER.fullmatch(text):
        return _decimal(text)
    if match := _REPEATING.fullmatch(text):
        whole, fixed, *blocks = match.groups()
        return _repeating(whole, fixed, next(filter(None, blocks)))
    if match := _DOTS.fullmatch(text):
        return _continued(match[1])
    if match := _FRACTION.fullmatch(text):
        above, below = (_with_sign(part) for part in match.groups() if part is not None)
        return Number(above / below) if below else None
    if match := _MIXED.fullmatch(text):
        whole, part = (group for group in match.groups() if group is not None)
        fraction = _unsigned(part)
        proper = fraction is not None and 0 < fraction.value < 1
        return Number(int(whole) + fraction.value) if fraction and proper else None
    if match := _SCIENTIFIC.fullmatch(text):
        exponent = int((match[2] or match[3])[:6])
        if abs(exponent) > LARGEST_EXPONENT:
            return None
        return Number(_decimal(match[1]).value * Fraction(10) ** exponent)
    return None


def _decimal(text: str) -> Number:
    text = re.sub("[, ]", "", text)
    _, point, behind = text.partition(".")
    value = Fraction(text.rstrip(".") or "0")
    return Number(value, len(behind) if point and behind else None)


def _with_sign(text: str) -> Fraction:
    sign = -1 if text.lstrip().startswith("-") else 1
    return sign * _decimal(text.lstrip("+- ")).value


def _repeating(whole: str, fixed: str, block: str) -> Number:
    scale = Fraction(1, 10 ** len(fixed))
    value = int(whole or "0") + (Fraction(int(fixed or "0")) * scale)
    return Number(value + scale * Fraction(int(block), 10 ** len(block) - 1))


def _continued(text: str) -> Number | None:
    """0.333… and 0.1666…: a block that ends the digits at least twice (a digit: three times)."""
    whole, _, digits = text.partition(".")
    for size in range(1, len(digits) // 2 + 1):
        block, times = digits[-size:], 1
        while digits.endswith(block * (times + 1)):
            times += 1
        if times >= (3 if size == 1 else 2):
            return _repeating(whole, digits[: len(digits) - size * times], block)
    return None


# Units by dimension: how much of the first of each line the others are.
_UNITS: dict[str, dict[str, Fraction]] = {
    "length": {"m": Fraction(1), "km": Fraction(1000), "cm": Fraction(1, 100)}
    | {"mm": Fraction(1, 1000), "in": Fraction(254, 10000), "ft": Fraction(3048, 10000)}
    | {"yd": Fraction(9144, 10000), "mi": Fraction(1609344, 1000)},
    "time": {"s": Fraction(1), "min": Fraction(60), "h": Fraction(3600), "day": Fraction(86400)}
    | {"week": Fraction(604800)},
    "mass": {"g": Fraction(1), "kg": Fraction(1000), "mg": Fraction(1, 1000)},
    "weight": {"oz": Fraction(1), "lb": Fraction(16)},
    "volume": {"L": Fraction(1), "ml": Fraction(1, 1000)},
    "money": {"dollar": Fraction(1), "cent": Fraction(1, 100)},
    "euro": {"euro": Fraction(1)},
    "angle": {"degree": Fraction(1)},
    "radian": {"radian": Fraction(1)},
    "celsius": {"celsius": Fraction(1)},
    "fahrenheit": {"fahrenheit": Fraction(1)},
    "speed": {"mph": Fraction(1609344, 3600000), "km/h": Fraction(1000, 3600), "m/s": Fraction(1)}
    | {"ft/s": Fraction(3048, 10000)},
    "month": {"month": Fraction(1), "year": Fraction(12)},
    "percent": {"%": Fraction(1)},
}
_DIMENSION = {unit: kind for kind, units in _UNITS.items() for unit in units}
_NAMES = {
    name: unit
    for unit, names in {
        "m": "meter meters metre metres", "km": "kilometer kilometers kilometre kilometres",
        "cm": "centimeter centimeters centimetre centimetres cms",
        "mm": "millimeter millimeters millimetre millimetres",
        "in": "inch inches", "ft": "foot feet", "yd": "yard yards", "mi": "mile miles",
        "s": "second seconds sec secs", "min": "minute minutes mins", "h": "hour hours hr hrs",
        "day": "days", "week": "weeks", "month": "months", "year": "years yr yrs",
        "g": "gram grams", "kg": "kilogram kilograms kgs", "mg": "milligram milligrams",
        "oz": "ounce ounces", "lb": "pound pounds lbs",
        "L": "liter liters litre litres l", "ml": "milliliter milliliters millilitre mL",
        "dollar": "dollars $ usd USD", "cent": "cents ¢", "euro": "euros €",
        "degree": "degrees deg °", "radian": "radians rad", "%": "percent percentage pct",
        "celsius": "°C", "fahrenheit": "°F", "km/h": "kmh kph km/hr", "mph": "mi/h",
    }.items()
    for name in (unit, *names.split())
} | {"m/s": "m/s", "ft/s": "ft/s"}  # fmt: skip
_PER = re.compile(r"\s*(?:/|\bper\b)\s*")
_POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3, "squared": 2, "cubed": 3}
_MAGNITUDES = {
    "dozen": 12, "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9,
    "trillion": 10**12,
}  # fmt: skip
# Behind a number these change what it says.
_QUALIFIERS = frozenset(
    "and or not no none if when unless except less fewer more greater least most than between to "
    "about approximately plus minus times over under half mod modulo where with for pi".split()
)
_ORDINALS = {"st", "nd", "rd", "th"}


@dataclass(frozen=True)
class Unit:
    """A unit or whatever words follow a number.

    `name` is canonical where the unit is known, else the words; `power` of it; `times` what a word
    like million multiplies by; `qualified` says that the words change the number's meaning.
    """

    name: str = ""
    power: int = 1
    times: int = 1
    qualified: bool = False

    @property
    def dimension(self) -> str | None:
        """What it measures, None if it is not known."""
        return _DIMENSION.get(self.name)

    def ratio(self, other: "Unit") -> Fraction | None:
        """How many of `other` one of this is; None if they do not measure the same."""
        kind = self.dimension
        if kind is None or kind != other.dimension or self.power != other.power:
            return None
        return (_UNITS[kind][self.name] / _UNITS[kind][other.name]) ** self.power


def unit(text: str) -> Unit:
    """The unit that words, a sign or both spell, with powers (`cm^2`, `square inches`)."""
    power = 1
    if match := re.search(r"\s*\^\s*\{?\s*([23])\s*\}?$", text):
        power, text = int(match[1]), text[: match.start()]
    text = text.strip(" .,()")
    if text.replace(" ", "") in _NAMES:
        return Unit(_NAMES[text.replace(" ", "")], power)
    words, times = [], 1
    for word in _PER.sub("/", text).split():
        low = word.lower()
        if low in _POWERS:
            power = _POWERS[low]
        elif low in _MAGNITUDES or low.removesuffix("s") in _MAGNITUDES:
            times *= _MAGNITUDES.get(low) or _MAGNITUDES[low.removesuffix("s")]
        elif low not in _ORDINALS and low != "of":
            words.append("/".join(_name(part) for part in word.split("/")))
    qualified = bool(_QUALIFIERS & {word.lower() for word in re.findall("[A-Za-z]+", text)})
    name = " ".join(words)
    return Unit(_NAMES.get(name, name), power, times, qualified)


def _name(word: str) -> str:
    if len(word) == 1:
        return _NAMES.get(word, word)
    return _NAMES.get(word) or _NAMES.get(word.lower()) or word.lower()


def known(word: str) -> bool:
    """Whether a word names a unit or a magnitude, outside `\\text{…}` too."""
    low = word.lower()
    return len(word) > 1 and (
        word in _NAMES or low in _NAMES or low.removesuffix("s") in _MAGNITUDES
    )
