"""Functions beside the big family: arithmetic on a few numbers, chains on a string or a list, and the classics."""
# ruff: noqa: E501  (tables: one entry a line)

from __future__ import annotations

import random
from typing import Any

from demo.tasks.code_family import Arguments, Task, _numbers, _text, _word_list


def _ints(n: int) -> Arguments:
    return lambda r: [r.randint(1, 20) for _ in range(n)]


def scalar_task(rng: random.Random) -> Task:
    """For instance "the square of the difference of two numbers"."""
    k, m = rng.randint(2, 20), rng.randint(3, 9)
    inner, inner_say, value = rng.choice((
        ("sum", ["the sum of two numbers", "the total of two numbers", "two numbers added together"], "a + b"),
        ("diff", ["the difference of two numbers", "the difference between two numbers"], "a - b"),
        ("product", ["the product of two numbers", "two numbers multiplied"], "a * b"),
        ("max", ["the larger of two numbers", "the maximum of two numbers", "the bigger of two numbers"], "max(a, b)"),
        ("min", ["the smaller of two numbers", "the minimum of two numbers"], "min(a, b)"),
        ("mod", ["the remainder of two numbers", "the remainder of a divided by b"], "a % b"),
        ("mean", ["the average of two numbers", "the mean of two numbers"], "(a + b) / 2"),
        ("sum3", ["the sum of three numbers", "the total of three numbers"], "a + b + c"),
        ("product3", ["the product of three numbers"], "a * b * c"),
        ("max3", ["the largest of three numbers", "the maximum of three numbers"], "max(a, b, c)"),
        ("min3", ["the smallest of three numbers", "the minimum of three numbers"], "min(a, b, c)"),
        ("one", ["a number"], "n"), ("one", ["a number"], "n"), ("one", ["a given number"], "n"), ("one", ["an integer"], "n"),
    ))  # fmt: skip
    atom = (
        value
        if value.isidentifier() or (value.endswith(")") and "(" in value and value[0] == "m")
        else f"({value})"
    )
    outer, outer_say, body = rng.choice((
        ("same", ["{}"], value), ("same", ["{}"], value),
        ("square", ["the square of {}", "{} squared"], f"{atom} ** 2"),
        ("cube", ["the cube of {}", "{} cubed"], f"{atom} ** 3"),
        ("double", ["double {}", "twice {}", "{} doubled", "the double of {}"], f"{atom} * 2"),
        ("triple", ["three times {}", "{} tripled"], f"{atom} * 3"),
        ("half", ["half of {}", "half {}"], f"{atom} / 2"),
        ("abs", ["the absolute value of {}"], f"abs({value})"),
        ("neg", ["the negative of {}"], f"-{atom}"),
        ("plus", [f"{{}} plus {k}", f"{k} more than {{}}"], f"{value} + {k}" if "%" not in value else f"{atom} + {k}"),
        ("minus", [f"{{}} minus {k}", f"{k} less than {{}}"], f"{value} - {k}" if "%" not in value else f"{atom} - {k}"),
        ("times", [f"{{}} times {k}", f"{{}} multiplied by {k}"], f"{atom} * {k}"),
        ("digits", ["the number of digits of {}"], f"len(str({value}))"),
        ("even", ["?{} is even"], f"{atom} % 2 == 0"), ("odd", ["?{} is odd"], f"{atom} % 2 != 0"),
        ("positive", ["?{} is positive"], f"{value} > 0"), ("negative", ["?{} is negative"], f"{value} < 0"),
        ("above", [f"?{{}} is greater than {k}", f"?{{}} is more than {k}", f"?{{}} is above {k}"], f"{value} > {k}"),
        ("below", [f"?{{}} is less than {k}", f"?{{}} is smaller than {k}", f"?{{}} is below {k}"], f"{value} < {k}"),
        ("divisible", [f"?{{}} is divisible by {m}", f"?{{}} is a multiple of {m}"], f"{atom} % {m} == 0"),
        ("between", [f"?{{}} is between {m} and {m + k}"], f"{m} <= {value} <= {m + k}"),
    ))  # fmt: skip
    if outer in ("digits",) and inner in ("diff", "mean"):
        inner, inner_say, value, body = "one", ["a number"], "n", "len(str(n))"
    if outer == "same" and inner == "one":
        return scalar_task(rng)
    said = rng.choice(outer_say)
    if said[0] == "?":
        verb = rng.choice(
            (
                "checks whether ",
                "checks if ",
                "tells whether ",
                "returns True if ",
                "tests if ",
                "returns whether ",
            )
        )
        described = verb + said[1:].format(rng.choice(inner_say))
    else:
        described = "returns " + said.format(rng.choice(inner_say))
    names = "n" if inner == "one" else ("a, b, c" if inner.endswith("3") else "a, b")
    return Task(f"scalar:{outer}:{inner}", described, names, body, _ints(len(names.split(", "))))


def text_task(rng: random.Random) -> Task:
    """One or two string operations, for instance "reverses a string and converts it to upper case"."""
    k = rng.randint(2, 6)
    a, b = rng.sample("abcdefghiklmnoprstuw", 2)
    operations = [
        ("reverse", ["reverses {}", "returns {} reversed", "returns {} backwards", "flips {}"], "[::-1]"),
        ("upper", ["converts {} to upper case", "converts {} to uppercase", "makes {} uppercase", "returns {} in upper case"], ".upper()"),
        ("lower", ["converts {} to lower case", "converts {} to lowercase", "makes {} lowercase", "returns {} in lower case"], ".lower()"),
        ("title", ["converts {} to title case", "capitalizes every word of {}"], ".title()"),
        ("capital", ["capitalizes {}", "capitalizes the first letter of {}"], ".capitalize()"),
        ("swap", ["swaps the case of {}", "swaps upper and lower case in {}"], ".swapcase()"),
        ("strip", ["strips {}", "removes spaces from both ends of {}"], ".strip()"),
        ("nospace", ["removes all spaces from {}", "removes the spaces from {}"], ".replace(' ', '')"),
        ("under", ["replaces the spaces in {} with underscores", "replaces spaces with underscores in {}"], ".replace(' ', '_')"),
        ("replace", [f"replaces '{a}' with '{b}' in {{}}", f"replaces every '{a}' with '{b}' in {{}}"], f".replace('{a}', '{b}')"),
        ("head", [f"returns the first {k} characters of {{}}", f"takes the first {k} letters of {{}}"], f"[:{k}]"),
        ("tail", [f"returns the last {k} characters of {{}}", f"takes the last {k} letters of {{}}"], f"[-{k}:]"),
        ("drop", [f"drops the first {k} characters of {{}}", f"removes the first {k} letters of {{}}"], f"[{k}:]"),
        ("repeat", [f"repeats {{}} {k} times"], f" * {k}"),
    ]  # fmt: skip
    first = rng.choice(operations)
    noun = rng.choice(("a string", "a string", "a text", "a given string", "a word"))
    described, body, skeleton = rng.choice(first[1]).format(noun), "text" + first[2], first[0]
    if rng.random() < 0.6 and first[0] != "repeat":
        second = rng.choice([o for o in operations if o[0] != first[0]])
        described += rng.choice((" and ", " and then ", ", then ")) + rng.choice(second[1]).format("it")
        described = described.replace("in it with underscores", "with underscores")
        body, skeleton = body + second[2], f"{skeleton}:{second[0]}"
    return Task(f"text:{skeleton}", described, "text", body, lambda r: [rng_text(r)])


def rng_text(rng: random.Random) -> str:
    """A text that may have blanks at its ends."""
    return rng.choice(("", "", " ")) + _text(rng) + rng.choice(("", " "))


def list_task(rng: random.Random) -> Task:
    """One or two list operations, for instance "sorts a list and returns its first 3 elements"."""
    k = rng.randint(2, 4)
    operations = [
        ("reverse", ["reverses {}", "returns {} reversed", "returns {} in reverse order"], "{}[::-1]"),
        ("sort", ["sorts {}", "sorts {} in ascending order", "returns {} sorted", "sorts {} from smallest to largest"], "sorted({})"),
        ("sortdown", ["sorts {} in descending order", "sorts {} from largest to smallest"], "sorted({}, reverse=True)"),
        ("dedupe", ["removes duplicates from {}", "removes the duplicates from {}", "returns {} without duplicates"], "list(dict.fromkeys({}))"),
        ("head", [f"returns the first {k} elements of {{}}", f"takes the first {k} items of {{}}"], f"{{}}[:{k}]"),
        ("tail", [f"returns the last {k} elements of {{}}", f"takes the last {k} items of {{}}"], f"{{}}[-{k}:]"),
        ("drop", [f"drops the first {k} elements of {{}}", f"removes the first {k} items of {{}}"], f"{{}}[{k}:]"),
        ("second", ["returns every second element of {}", "takes every other element of {}"], "{}[::2]"),
        ("first", ["returns the first element of {}", "gets the first item of {}"], "{}[0]"),
        ("last", ["returns the last element of {}", "gets the last item of {}"], "{}[-1]"),
        ("len", ["returns the length of {}", "counts the elements of {}", "returns the number of elements in {}", "counts the items in {}"], "len({})"),
    ]  # fmt: skip
    first = rng.choice(operations)
    noun = rng.choice(("a list", "a list", "a list of numbers", "a given list", "a list of items"))
    described, body, skeleton = rng.choice(first[1]).format(noun), first[2].format("items"), first[0]
    if rng.random() < 0.6 and first[0] not in ("first", "last", "len"):
        second = rng.choice([o for o in operations if o[0] != first[0]])
        described += rng.choice((" and ", " and then ", ", then ")) + rng.choice(second[1]).format("it")
        body, skeleton = second[2].format(body), f"{skeleton}:{second[0]}"
    return Task(f"items:{skeleton}", described, "items", body, lambda r: [[*(v := _numbers(r)), r.choice(v)]])


# Everybody asks for these; no held-out function is among them.
CLASSICS: list[tuple[str, str, str, Any]] = [
    ("returns the factorial of a number|computes the factorial of n|calculates a factorial", "n", "1 if n < 2 else n * {f}(n - 1)", _ints(1)),
    ("returns the nth Fibonacci number|computes the n-th Fibonacci number|returns the Fibonacci number at position n", "n", "n if n < 2 else {f}(n - 1) + {f}(n - 2)", lambda r: [r.randint(0, 14)]),
    ("checks whether a number is prime|returns True if a number is prime|checks if n is a prime number|tells whether an integer is prime", "n", "n > 1 and all(n % i != 0 for i in range(2, n))", _ints(1)),
    ("checks whether a string is a palindrome|returns True if a word is a palindrome|checks if a text reads the same backwards|tests whether a string is a palindrome", "text", "text == text[::-1]", lambda r: [r.choice(("level", "kayak", "stone", "abba", "ab"))]),
    ("returns the greatest common divisor of two numbers|computes the gcd of two numbers|finds the greatest common divisor of a and b", "a, b", "a if b == 0 else {f}(b, a % b)", _ints(2)),
    ("returns the least common multiple of two numbers|computes the lcm of two numbers", "a, b", "min(m for m in range(1, a * b + 1) if m % a == 0 and m % b == 0)", _ints(2)),
    ("converts Celsius to Fahrenheit|converts a temperature from Celsius to Fahrenheit", "c", "c * 9 / 5 + 32", _ints(1)),
    ("converts Fahrenheit to Celsius|converts a temperature from Fahrenheit to Celsius", "f", "(f - 32) * 5 / 9", _ints(1)),
    ("returns the area of a rectangle|computes the area of a rectangle from its width and height", "a, b", "a * b", _ints(2)),
    ("returns the perimeter of a rectangle|computes the perimeter of a rectangle", "a, b", "2 * (a + b)", _ints(2)),
    ("returns the area of a square|computes the area of a square with a given side", "n", "n ** 2", _ints(1)),
    ("returns the area of a triangle|computes the area of a triangle from base and height", "a, b", "a * b / 2", _ints(2)),
    ("checks whether a year is a leap year|returns True for a leap year|checks if a year is a leap year", "n", "n % 4 == 0 and (n % 100 != 0 or n % 400 == 0)", lambda r: [r.choice((1900, 2000, 2023, 2024))]),
    ("checks whether two words are anagrams|checks if two strings are anagrams of each other|tells whether two strings are anagrams", "a, b", "sorted(a) == sorted(b)", lambda r: list(r.choice((("stone", "notes"), ("ab", "abc"))))),
    ("returns a to the power of b|raises a number to a power|computes the power of a number|returns base to the exponent", "a, b", "a ** b", _ints(2)),
    ("returns the product of all numbers in a list|multiplies all numbers in a list|returns the product of a list", "numbers", "1 if not numbers else numbers[0] * {f}(numbers[1:])", lambda r: [_numbers(r)]),
    ("returns the second largest number in a list|finds the second largest number of a list|returns the second biggest element", "numbers", "sorted(set(numbers))[-2]", lambda r: [_numbers(r)]),
    ("returns the second smallest number in a list|finds the second smallest element of a list", "numbers", "sorted(set(numbers))[1]", lambda r: [_numbers(r)]),
    ("returns the median of a list of odd length|returns the middle element of a list", "items", "sorted(items)[len(items) // 2]", lambda r: [_numbers(r)]),
    ("returns the sum of the digits of a number|adds up the digits of an integer|computes the digit sum of a number", "n", "sum(int(c) for c in str(n))", lambda r: [r.randint(1, 9999)]),
    ("reverses the digits of a number|returns a number with its digits reversed", "n", "int(str(n)[::-1])", lambda r: [r.randint(1, 9999)]),
    ("counts how often a letter occurs in a string|counts the occurrences of a character in a string|returns how many times a letter appears in a text", "text, c", "text.count(c)", lambda r: [_text(r), r.choice("aeno")]),
    ("counts how often a value occurs in a list|returns how many times x appears in a list|counts the occurrences of an item in a list", "items, x", "items.count(x)", lambda r: [(v := _numbers(r)), r.choice(v)]),
    ("checks whether a list contains a value|returns True if an item is in a list|checks if a value is in a list", "items, x", "x in items", lambda r: [_numbers(r), r.randint(1, 12)]),
    ("checks whether a string contains another string|checks if one string is in another", "text, part", "part in text", lambda r: [_text(r), r.choice(("a", "on", "zz"))]),
    ("returns the position of an item in a list|returns the index of x in a list|finds the index of a value in a list", "items, x", "items.index(x)", lambda r: [(v := _numbers(r)), r.choice(v)]),
    ("returns the index of the largest number in a list|finds the position of the maximum of a list", "numbers", "numbers.index(max(numbers))", lambda r: [_numbers(r)]),
    ("returns the range of a list of numbers|returns the difference between the largest and smallest number in a list", "numbers", "max(numbers) - min(numbers)", lambda r: [_numbers(r)]),
    ("concatenates two strings|joins two strings|combines two strings", "a, b", "a + b", lambda r: [_text(r), _text(r)]),
    ("merges two lists|joins two lists|concatenates two lists|combines two lists", "a, b", "a + b", lambda r: [_numbers(r), _numbers(r)]),
    ("returns the elements that two lists share|returns the common elements of two lists|returns the intersection of two lists", "a, b", "[x for x in a if x in b]", lambda r: [_numbers(r), _numbers(r)]),
    ("merges two dictionaries|combines two dictionaries", "a, b", "dict(a, **b)", lambda r: [{"a": 1, "b": 2}, {"b": 3}]),
    ("returns the keys of a dictionary as a list|lists the keys of a dictionary", "d", "list(d)", lambda r: [{"a": 1, "b": 2}]),
    ("returns the values of a dictionary as a list|lists the values of a dictionary", "d", "list(d.values())", lambda r: [{"a": 1, "b": 2}]),
    ("swaps the keys and values of a dictionary|inverts a dictionary", "d", "dict((v, k) for k, v in d.items())", lambda r: [{"a": 1, "b": 2}]),
    ("flattens a list of lists|flattens a nested list", "items", "[x for part in items for x in part]", lambda r: [[[1, 2], [3], []]]),
    ("returns the number of words in a sentence|counts the words in a string|counts the words in a text", "text", "len(text.split())", lambda r: [_text(r)]),
    ("returns the length of a string|counts the characters in a string|returns the number of characters in a text", "text", "len(text)", lambda r: [_text(r)]),
    ("returns the words of a sentence in reverse order|reverses the order of the words in a sentence", "text", "' '.join(text.split()[::-1])", lambda r: [_text(r)]),
    ("splits a sentence into words|returns the words of a sentence as a list|splits a string into a list of words", "text", "text.split()", lambda r: [_text(r)]),
    ("joins a list of strings with commas|joins words with a comma", "words", "','.join(words)", _word_list),
    ("joins a list of strings with spaces|joins words into a sentence", "words", "' '.join(words)", _word_list),
    ("returns a greeting for a name|greets a person by name", "name", "'Hello, ' + name + '!'", lambda r: [r.choice(("Ann", "Bo"))]),
    ("returns the first character of a string|returns the first letter of a word", "text", "text[0]", lambda r: ["x" + _text(r)]),
    ("returns the last character of a string|returns the last letter of a word", "text", "text[-1]", lambda r: [_text(r) + "y"]),
    ("returns the square root of a number|computes the square root of n", "n", "n ** 0.5", _ints(1)),
    ("returns a list of the numbers from 1 to n|returns the first n positive integers|lists the integers from 1 to n", "n", "list(range(1, n + 1))", _ints(1)),
    ("returns the sum of the numbers from 1 to n|adds all integers from 1 to n|sums the first n positive integers", "n", "sum(range(1, n + 1))", _ints(1)),
    ("returns the divisors of a number|lists all divisors of n|returns a list of the factors of a number", "n", "[i for i in range(1, n + 1) if n % i == 0]", _ints(1)),
    ("returns a list of the primes up to n|lists the prime numbers up to n", "n", "[p for p in range(2, n + 1) if all(p % i != 0 for i in range(2, p))]", _ints(1)),
    ("checks whether a list is empty|returns True if a list is empty|checks if a list has no elements", "items", "len(items) == 0", lambda r: [r.choice(([], [1]))]),
    ("checks whether a list is sorted|returns True if a list is in ascending order|checks if a list is sorted", "items", "items == sorted(items)", lambda r: [r.choice(([1, 2, 3], [3, 1]))]),
    ("checks whether a list has duplicates|returns True if a list contains duplicates", "items", "len(set(items)) < len(items)", lambda r: [r.choice(([1, 2, 1], [3, 1]))]),
    ("checks whether two numbers are equal|returns True if two values are equal", "a, b", "a == b", _ints(2)),
    ("returns 'even' or 'odd' for a number|returns the word even or odd for a number", "n", "'even' if n % 2 == 0 else 'odd'", _ints(1)),
    ("returns the absolute difference of two numbers|returns the distance between two numbers", "a, b", "abs(a - b)", _ints(2)),
    ("returns the sign of a number|returns -1, 0 or 1 for the sign of a number", "n", "(n > 0) - (n < 0)", lambda r: [r.randint(-3, 3)]),
    ("returns the binary form of a number as a string|converts a number to binary", "n", "bin(n)[2:]", _ints(1)),
    ("converts a string to an integer|turns a string into an int", "text", "int(text)", lambda r: [str(r.randint(1, 99))]),
    ("converts a number to a string|turns a number into a string", "n", "str(n)", _ints(1)),
    ("converts minutes to seconds|returns the number of seconds in n minutes", "n", "n * 60", _ints(1)),
    ("converts hours to minutes|returns the number of minutes in n hours", "n", "n * 60", _ints(1)),
    ("converts kilometers to meters|converts kilograms to grams", "n", "n * 1000", _ints(1)),
    ("returns the remainder when a is divided by b|computes a modulo b", "a, b", "a % b", _ints(2)),
    ("divides two numbers|returns the quotient of two numbers|divides a by b", "a, b", "a / b", _ints(2)),
    ("adds two numbers|returns a plus b|sums two numbers|adds a and b", "a, b", "a + b", _ints(2)),
    ("subtracts two numbers|subtracts b from a|returns a minus b", "a, b", "a - b", _ints(2)),
    ("multiplies two numbers|returns a times b|multiplies a and b", "a, b", "a * b", _ints(2)),
    ("returns the most common element of a list|returns the most frequent item of a list|finds the mode of a list", "items", "max(items, key=items.count)", lambda r: [[*(v := _numbers(r)), v[0]]]),
    ("returns the sum of a list|adds up all the numbers in a list|sums a list of numbers|adds all elements of a list", "numbers", "sum(numbers)", lambda r: [_numbers(r)]),
    ("computes the average of a list of numbers|calculates the mean of a list", "numbers", "sum(numbers) / len(numbers)", lambda r: [_numbers(r)]),
    ("finds the largest number in a list|finds the maximum of a list|gets the biggest number of a list", "numbers", "max(numbers)", lambda r: [_numbers(r)]),
    ("finds the smallest number in a list|finds the minimum of a list|gets the lowest number of a list", "numbers", "min(numbers)", lambda r: [_numbers(r)]),
    ("returns the initials of a name|returns the first letters of the words of a name", "name", "''.join(w[0] for w in name.split())", lambda r: ["Ann Bo"]),
    ("clamps a number between two limits|limits a number to the range from low to high", "n, low, high", "max(low, min(n, high))", lambda r: [r.randint(1, 20), 5, 10]),
    ("counts the vowels in a string|returns the number of vowels in a word", "text", "sum(1 for c in text if c in 'aeiouAEIOU')", lambda r: [_text(r)]),
]  # fmt: skip


def classic_task(rng: random.Random) -> Task:
    """One of the functions that everybody asks for. The body may call the function itself as {f}."""
    described, parameters, body, arguments = rng.choice(CLASSICS)
    return Task(
        "classic:" + described.split("|")[0], rng.choice(described.split("|")), parameters, body, arguments
    )
