"""Every literal that is understood."""
nothing = None
yes, no = True, False

integers = [0, 00, 7, -7, 1_000_000, 0xFF, 0Xdead_BEEF, 0o17, 0b1010, +3, 9223372036854775807, -9223372036854775808]
floats = [1.0, 1., .5, 1e-4, 1E5, 1_0.2_5e1_0, 012.5, 1e999, -0.0, 5e-324, 1.7976931348623157e308, 0.1]
special = [float("inf"), float("-inf"), float('nan'), float(" +Infinity "), float("1_0.5"), float(3), float(True), int(2.9),
           int(-2.9), int("12")]

single = 'single "quotes"'
double = "double 'quotes'"
triple = '''two
lines, 'quotes' and "quotes"'''
triple_double = """ends in a quote\""""
empty = '' "" '''''' """"""
joined = 'one ' "two " \
    r'three\n'
escapes = "\a\b\f\n\r\t\v\\\'\" \x41 \101 \0 \u00e9 \U0001f600 \d \
continued"
raw = [r'\d+\.', R"\"", r'''\
''']
unicode_text = u'größer — 学習率 🙂'

lists = [[], [1], [1,], [1, [2, [3]]], [
    1,  # a comment
    2
]]
tuples = (), (1,), (1), (1, 2), ((),)
no_parentheses = 1, 2
dicts = [{}, dict(), {'a': 1}, {"a": 1, 'b': {"c": None}, }, dict(a=1, b=dict(c=None), ), {'a': 1, 'a': 2},
         {'custom key.weight': 1}]
spread = [*lists, *tuples, {**{'a': 1}, 'b': 2, **dict(a=3)}, dict(dict(a=1, b=2), b=3), dict(a=1, **dict(b=2))]
größe = 1; after_semicolon = 2
if_ = for_ = 3
