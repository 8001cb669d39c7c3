"""Writes special_values.json: what PyTorch makes of NaN, infinities, denormals and huge values, forward and backward.

    python3 special_values.py > special_values.json

A case is one line in grid(): an op of OPS, its attributes, and its inputs. special_values_test.cpp runs the same call.
PyTorch's results stand in the file as they are, except where a case says that it `differs`, and why.
"""
import itertools
import json
import math
import types

import numpy
import torch
import torch.nn.functional as F

NAN, INF = math.nan, math.inf
torch.set_flush_denormal(False)


def conv(a, x, w, b=None):
    return F.conv2d(x, w, b, a.get("stride", 1), a.get("padding", 0), a.get("dilation", 1), a.get("groups", 1))


def max_pool(a, x):
    return F.max_pool2d(x, a["kernel"], a["stride"], a["padding"], a.get("dilation", [1, 1]), a.get("ceil", False))


def avg_pool(a, x):
    return F.avg_pool2d(x, a["kernel"], a["stride"], a["padding"], a.get("ceil", False), a.get("include", True))


def batch_norm(a, x, w, b, mean, var, residual=None, relu=False):
    """The result and the running statistics that it leaves behind."""
    mean, var = mean.clone(), var.clone()
    y = F.batch_norm(x, mean, var, w, b, a["training"], a.get("momentum", 0.1), a.get("eps", 1e-5))
    if residual is not None:
        y = y + residual
    return (F.relu(y) if relu else y), mean, var


def cross_entropy(a, x, target):
    return F.cross_entropy(x, target, reduction=a.get("reduction", "mean"), ignore_index=a.get("ignore", -100),
                           label_smoothing=a.get("smoothing", 0.0))


def count_correct(a, x, target):
    return (x.topk(a["k"]).indices == target[:, None]).sum()


# Only the first of several results has a gradient.
OPS = {
    "add": lambda a, x, y: x + y,
    "sub": lambda a, x, y: x - y,
    "mul": lambda a, x, y: x * y,
    "div": lambda a, x, y: x / y,
    "affine": lambda a, x: x * a["scale"] + a["shift"],
    "neg": lambda a, x: -x,
    "exp": lambda a, x: x.exp(),
    "log": lambda a, x: x.log(),
    "sqrt": lambda a, x: x.sqrt(),
    "relu": lambda a, x: x.relu(),
    "sigmoid": lambda a, x: x.sigmoid(),
    "tanh": lambda a, x: x.tanh(),
    "clone": lambda a, x: x.clone(),
    "reshape": lambda a, x: x.reshape(a["shape"]),
    "flatten": lambda a, x: x.flatten(*a["dims"]),
    "transpose": lambda a, x: x.transpose(*a["dims"]),
    "narrow": lambda a, x: x.narrow(*a["range"]),
    "cat": lambda a, *xs: torch.cat(xs, a["dim"]),
    "broadcast_to": lambda a, x: x.broadcast_to(a["shape"]),
    "sum_to": lambda a, x: x.sum_to_size(a["shape"]),
    "to(Layout)": lambda a, x: x.contiguous(memory_format=torch.channels_last).contiguous(),
    "to(DType)": lambda a, x: x.to(getattr(torch, a["dtype"])),
    "sum": lambda a, x: x.sum(a["dims"]) if "dims" in a else x.sum(),
    "mean": lambda a, x: x.mean(a["dims"]) if "dims" in a else x.mean(),
    "max": lambda a, x: tuple(x.max(a["dim"])),
    "argmax": lambda a, x: x.argmax(a["dim"]),
    "topk": lambda a, x: tuple(x.topk(a["k"])),
    "count_correct": count_correct,
    "matmul": lambda a, x, y: x @ y,
    "linear": lambda a, x, w, b=None: F.linear(x, w, b),
    "linear_relu": lambda a, x, w, b=None: F.linear(x, w, b).relu(),
    "conv2d": conv,
    "conv2d_relu": lambda a, x, w, b=None: conv(a, x, w, b).relu(),
    "max_pool2d": max_pool,
    "avg_pool2d": avg_pool,
    "adaptive_avg_pool2d": lambda a, x: F.adaptive_avg_pool2d(x, a["output"]),
    "batch_norm": batch_norm,
    "batch_norm_relu": lambda a, *inputs: batch_norm(a, *inputs, relu=True),
    "dropout": lambda a, x: F.dropout(x, a["p"], a["training"]),
    "softmax": lambda a, x: F.softmax(x, a["dim"]),
    "log_softmax": lambda a, x: F.log_softmax(x, a["dim"]),
    "cross_entropy": cross_entropy,
}


# Where the library is held to something else than PyTorch's result on the CPU in the same dtype: each changes lists of
# results and gradients in place.


def in_double(row):
    """PyTorch's own result in float64, rounded: its float32 loses denormals (sigmoid) or most digits (batch norm)."""
    dtype = row.inputs[0].dtype
    wide = [x if x is None or x.dtype == torch.int64 else x.detach().double().requires_grad_(x.requires_grad)
            for x in row.inputs]
    upstream = weights(row.results[0].shape, torch.float64) if row.grad is None else row.grad.double()
    results, gradients = evaluate(row.op, row.attributes, wide, upstream)
    row.results[:] = [y.to(dtype) for y in results]
    row.gradients[:] = [g.to(dtype) for g in gradients]


def centred_first(row):
    """(x − mean) · scale + bias, as PyTorch has it on GPUs: its bias − mean · scale on the CPU is NaN for scale ∞."""
    in_double(row)
    x, w, b, mean, var = [t.detach().double() for t in row.inputs[:5]]
    over = [0, 2, 3][: x.dim() - 1]
    if row.attributes["training"]:
        mean, var = x.mean(over), x.var(over, unbiased=False)
    column = [1, -1] + [1] * (x.dim() - 2)
    y = (x - mean.view(column)) * (w / (var + 1e-5).sqrt()).view(column) + b.view(column)
    row.results[0] = (y.relu() if row.op == "batch_norm_relu" else y).to(row.inputs[0].dtype)


def skip_ignored_rows(row):
    """An ignored row has gradient 0 whatever it holds: PyTorch's 0 · NaN would let padding spoil the batch."""
    row.gradients[0][row.inputs[1] == row.attributes["ignore"]] = 0.0


def infinite_at_target(row):
    """Infinite gradients times (softmax − 1): PyTorch's two terms, ∞ · softmax − ∞, give NaN at the target."""
    for i, g in enumerate(row.grad.tolist()):
        if math.isinf(g):
            row.gradients[0][i, row.inputs[1][i]] = -g


def ordinary(n, start=0):
    """Of both signs, not 0, distinct up to 61, and so coarse that their products and sums are exact in float32."""
    return [((29 * i + 7) % 61 - 30.5) / 8 for i in range(start, start + n)]


PLACES = {value: i for i, value in enumerate(ordinary(61))}
texts = {}  # each once: its number


def spell(tensor):
    """The number of a text with the values: '3*nan' three times NaN, '5~3' ordinary(3, 5)."""
    if tensor.dtype in (torch.float16, torch.bfloat16):
        tensor = tensor.to(torch.float64)
    values = tensor.detach().contiguous().numpy().reshape(-1)
    tokens, i = [], 0
    while i < len(values):
        start, n = PLACES.get(float(values[i])), 1
        while start is not None and i + n < len(values) and PLACES.get(float(values[i + n])) == (start + n) % 61:
            n += 1
        if n > 1:
            tokens.append(f"{start}~{n}")
        else:
            token = numpy.format_float_scientific(values[i], trim="-",
                                                  exp_digits=1) if values.dtype != int else str(values[i])
            token = token.removesuffix("e+0")
            while i + n < len(values) and numpy.array([values[i + n]]).tobytes() == numpy.array([values[i]]).tobytes():
                n += 1
            tokens.append(token if n == 1 else f"{n}*{token}")
        i += n
    return texts.setdefault(" ".join(tokens), len(texts))


def weights(shape, dtype):
    """The default gradient of a result, as in special_values_test.cpp."""
    values = [(0.5 + i % 5 / 4) * (-1 if i % 3 == 1 else 1) for i in range(math.prod(shape))]
    return torch.tensor(values, dtype=dtype).reshape(shape)


cases = {}  # what was found: the dtypes that it was found in


def evaluate(op, attributes, inputs, upstream=None):
    """Results, and gradients of the inputs that require one."""
    results = OPS[op](attributes, *inputs)
    results = list(results) if isinstance(results, tuple) else [results]
    if not results[0].requires_grad:
        return results, []
    upstream = weights(results[0].shape, results[0].dtype) if upstream is None else upstream
    leaves = [x for x in inputs if x is not None and x.requires_grad]
    return [y.detach() for y in results], list(torch.autograd.grad(results[0], leaves, upstream))


def case(op, attributes, *inputs, grad=None, differs=None):
    """Inputs are tensors; those that require a gradient get one."""
    results, gradients = evaluate(op, attributes, inputs, grad)
    if differs is not None:
        differs(types.SimpleNamespace(op=op, attributes=attributes, inputs=inputs, grad=grad, results=results,
                                      gradients=gradients))
    # Numbers that are infinite or NaN are no JSON: attributes spell theirs.
    row = {"op": op, "attributes": {k: repr(v) if isinstance(v, float) else v for k, v in attributes.items()},
           "inputs": [None if x is None else [list(x.shape), spell(x), "leaf" if x.requires_grad else
                                              "int64" if x.dtype == torch.int64 else "data"] for x in inputs],
           "results": [[list(y.shape), spell(y)] for y in results], "gradients": [spell(g) for g in gradients]}
    if grad is not None:
        row["grad"] = spell(grad)
    dtype = str(inputs[0].dtype)[6:]
    cases.setdefault(json.dumps(row, separators=(",", ":")), []).append(dtype)


def grid(dtype):
    info = torch.finfo(dtype)
    double = dtype == torch.float64
    largest, normal = info.max, info.tiny
    tiny, middle = normal * info.eps, normal / 8
    specials = [NAN, INF, -INF, 0.0, -0.0, tiny, -middle, normal, largest, -largest, 1.0, -1.5, 0.7]
    huge = (1e300, -1e300) if double else (1e30, -1e38)

    def leaf(values, *shape):
        x = torch.tensor(values, dtype=dtype).reshape(shape or (len(values),))
        return x.requires_grad_()

    def data(values, *shape):
        return leaf(values, *shape).detach()

    def spoilt(n, places, start=0):
        values = ordinary(n, start)
        for place, value in places.items():
            values[place] = value
        return values

    # Functions of one tensor: every special against every incoming gradient, then what is special to the function.
    upstreams = [1.0, -0.75, NAN, INF, -INF, 0.0, -0.0, tiny, middle]
    pairs = list(itertools.product(specials, upstreams))
    edges = {"exp": [88.0, 88.9, -87.0, -90.0, -103.0, -104.5, 709.5, 710.0, -708.0, -720.0, -745.0, -746.0, 1e30,
                     -1e30],
             "log": [2.0, 0.5, 1e-30, 1e30, -1e-30, 3 * tiny],
             "sqrt": [4.0, 2.0, 1e-30, -1e-30, 3 * tiny],
             "sigmoid": [88.0, 90.0, 104.0, -87.0, -88.5, -90.0, -103.0, -110.0, 700.0, -709.0, -720.0, -745.0,
                         -800.0, 17.0],
             "tanh": [1e-30, -1e-30, 1e-5, 12.0, -12.5, 20.0, 1e30, -1e30, 3 * tiny],
             "relu": [3 * tiny, -3 * tiny], "neg": []}
    for op, extra in edges.items():
        case(op, {}, leaf([x for x, _ in pairs]), grad=data([g for _, g in pairs]))
        if extra:
            case(op, {}, data(extra), differs=in_double)
            if op in ("sigmoid", "tanh"):  # their gradients cancel elsewhere
                case(op, {}, leaf([0.25, -0.5, 40.0, -1e4, 1e4, 3 * tiny]))
            else:
                case(op, {}, leaf(extra))
    for scale, shift in [(2.0, 0.0), (-0.5, 1.0), (0.0, 0.5), (1.0, -0.0), (tiny, 0.0), (INF, 0.0), (1.0, NAN),
                         (4.0, -INF)]:
        case("affine", {"scale": scale, "shift": shift},
             leaf([x for x, _ in pairs[::3]]), grad=data([g for _, g in pairs[::3]]))

    # Functions of two tensors: the cross product; and a special scalar that is broadcast.
    pairs = list(itertools.product(specials, specials))
    for op in ("add", "sub", "mul", "div"):
        case(op, {}, leaf([x for x, _ in pairs]), leaf([y for _, y in pairs]))
        for special in specials[:5]:
            case(op, {}, leaf(ordinary(18), 18), leaf([special], 1))
        case(op, {}, leaf([0.75] * len(upstreams)), leaf([-1.25] * len(upstreams)), grad=data(upstreams))

    # What only moves values.
    values = (specials + ordinary(11))[:24]
    image = leaf(values, 2, 3, 2, 2)
    for op, attributes in [("reshape", {"shape": [4, 6]}), ("flatten", {"dims": [1, 2]}),
                           ("transpose", {"dims": [1, 3]}),
                           ("narrow", {"range": [1, 1, 2]}), ("narrow", {"range": [0, 0, 1]}), ("to(Layout)", {}),
                           ("broadcast_to", {"shape": [2, 2, 3, 2, 2]})]:
        case(op, attributes, image)
        shape = OPS[op](attributes, image).shape
        n = math.prod(shape)
        case(op, attributes, image, grad=data((values * 2)[:n] if op != "broadcast_to" else ordinary(n), *shape))
    case("clone", {}, leaf(specials), grad=data(specials))
    case("broadcast_to", {"shape": [3, 13]}, leaf(specials, 1, 13))
    case("cat", {"dim": 1}, leaf(values[:12], 2, 6), leaf(values[12:], 2, 6), grad=data(values, 2, 12))
    for to in ("float16", "bfloat16", "float32", "float64"):
        edge = [65504.0, 65519.0, 65520.0, 2.0**-24, 2.0**-26, 2.0**-15, 3.3895314e38, 3.4e38, 1e-40, 2.0**-133,
                2.0**-149, 2.0**-151]
        case("to(DType)", {"dtype": to}, leaf(specials + edge))
        case("to(DType)", {"dtype": to}, leaf([1.0] * len(upstreams)),
             grad=torch.tensor(upstreams, dtype=getattr(torch, to)))

    # Rows of a reduction: a special first, in the middle, in the tail of a vector loop, last; with others; everywhere.
    rows = []
    for n in (19, 67):
        rows = [ordinary(n)]
        for special in (NAN, INF, -INF, largest):
            rows += [spoilt(n, {place: special}) for place in (0, n // 2, n - 3, n - 1)]
        rows += [spoilt(n, {1: INF, n - 1: -INF}), spoilt(n, {1: NAN, n - 1: INF}), spoilt(n, {2: INF, n - 2: INF}),
                 spoilt(n, {2: -INF, n - 2: NAN}), spoilt(n, {0: NAN, n - 1: NAN}), [NAN] * n, [INF] * n, [-INF] * n,
                 [0.0] * n, [-0.0] * n]
        small = [[middle] * n, [tiny] * n, [tiny * (i % 5 - 2) for i in range(n)]]
        every = rows + small
        table = leaf(sum(every, []), len(every), n)
        turned = leaf(torch.tensor(every, dtype=dtype).T.tolist(), n, len(every))
        for op in ("sum", "mean") if n == 19 else ("sum",):
            case(op, {"dims": [1]}, table)
            if n == 19:
                case(op, {"dims": [0]}, turned)
                for special in (NAN, INF, -INF, tiny):
                    case(op, {}, leaf([special] + [0.0] * (n - 1)))
        case("max", {"dim": 1}, table)
        case("argmax", {"dim": 1}, table.detach())
        if n == 19:
            case("sum_to", {"shape": [len(every), 1]}, table)
            case("sum_to", {"shape": [1, len(every)]}, turned)
            case("max", {"dim": 0}, turned)
            case("argmax", {"dim": 0}, turned.detach())
    for op in ("sum", "mean"):
        case(op, {}, leaf([], 0))
        case(op, {"dims": [1]}, leaf([], 2, 0))
        case(op, {"dims": [0]}, leaf(ordinary(12), 3, 4), grad=data([NAN, INF, -INF, tiny]))
    case("max", {"dim": 1}, leaf(ordinary(20), 5, 4), grad=data([NAN, INF, -INF, tiny, 0.0]))

    # topk: no equal values among the k largest but one NaN, since PyTorch leaves their order open.
    order = [spoilt(19, places) for places in ({}, {4: NAN}, {18: NAN}, {0: INF, 17: -INF}, {3: NAN, 18: INF},
                                               {5: largest, 6: INF, 7: -largest}, {0: -INF, 1: -INF, 2: -INF})]
    order.append([tiny * ((7 * i) % 19 - 9) for i in range(19)])
    order = data(sum(order, []), len(order), 19)
    for k in (1, 3, 5):
        case("topk", {"k": k}, order)
        for target in (0, 3, 4, 5, 17, 18):
            case("count_correct", {"k": k}, order, torch.full([order.shape[0]], target))

    # Softmax and cross-entropy over rows.
    for n in (3, 19):
        rows = [ordinary(n)]
        for special in (NAN, INF, -INF, huge[0], huge[1], largest, -largest):
            rows += [spoilt(n, {place: special}) for place in (0, n - 1)]
        rows += [[-INF] * n, [INF] * n, [NAN] * n, [huge[0]] * n, [-largest] * n, [largest] * n, [tiny] * n, [-0.0] * n,
                 spoilt(n, {0: huge[0], n - 1: huge[1]}), spoilt(n, {0: INF, n - 1: -INF}), spoilt(n, {0: NAN, 1: INF}),
                 [-INF] * (n - 1) + [0.5], [0.5] + [-INF] * (n - 1), [-INF] * (n - 1) + [-largest],
                 [1e4 * v for v in ordinary(n)], [-30.0 * i for i in range(n)],
                 [-1.0 * normal] * (n - 1) + [90.0 if not double else 720.0],
                 [0.0] * (n - 1) + [-95.0 if not double else -730.0]]
        count = len(rows)
        table = leaf(sum(rows, []), count, n)
        for op in ("softmax", "log_softmax"):
            case(op, {"dim": 1}, table)
            case(op, {"dim": 1}, leaf(ordinary(4 * n), 4, n), grad=data(sum([spoilt(n, {n - 1: g}) for g in (NAN, INF,
                    -INF, tiny)], []), 4, n))
        if n == 3:
            for op in ("softmax", "log_softmax"):
                case(op, {"dim": 0}, leaf(table.detach().T.tolist(), n, count))
        for place in (0, n - 1):
            target = torch.full([count], place)
            case("cross_entropy", {"reduction": "none"}, table, target)
        case("cross_entropy", {"reduction": "none"}, leaf(ordinary(4 * n), 4, n), torch.tensor([0, 1, 2, 0]),
             grad=data([NAN, INF, -INF, tiny]), differs=infinite_at_target)
        kept = torch.tensor([-100] * count)
        kept[0] = 1
        for reduction in ("none", "mean", "sum"):
            case("cross_entropy", {"reduction": reduction, "ignore": -100}, table, kept, differs=skip_ignored_rows)
            case("cross_entropy", {"reduction": reduction, "ignore": 2}, leaf(ordinary(2 * n), 2, n),
                 torch.tensor([2, 2]), differs=skip_ignored_rows)
            case("cross_entropy", {"reduction": reduction}, leaf(sum([spoilt(n, {2: huge[0]}),
                    spoilt(n, {0: huge[1]})], []), 2, n), torch.tensor([2, 1]))
        share = data([1.0 / n] * (count * n), count, n)
        case("cross_entropy", {"reduction": "none"}, table, share)
        case("cross_entropy", {"reduction": "none", "smoothing": 0.25}, table, target)
        case("cross_entropy", {"reduction": "none", "smoothing": 0.25}, table, share)
        case("cross_entropy", {"reduction": "none"}, leaf(ordinary(4 * n), 4, n),
             data(sum([spoilt(n, {0: p}) for p in (NAN, INF, tiny, 0.0)], []), 4, n))

    # Products.
    for m, k, n in [(2, 3, 2), (3, 19, 4)]:
        last = m * k - 1
        for places in ({}, {0: NAN}, {last: NAN}, {0: INF}, {last: -INF}, {0: INF, last: -INF}, {0: INF, k - 1: -INF}):
            a = spoilt(m * k, places)
            case("matmul", {}, leaf(a, m, k), leaf(ordinary(k * n, 20), k, n))
            for op in ("linear", "linear_relu"):
                case(op, {}, leaf(ordinary(m * k), m, k), leaf(spoilt(n * k, places, 20), n, k), leaf(ordinary(n)))
            if m == 2:
                case("linear", {}, leaf(a, m, k), leaf(ordinary(n * k, 20), n, k))
        case("matmul", {}, leaf(ordinary(2 * m * k), 2, m, k),
             leaf(spoilt(2 * k * n, {k * n: NAN, k * n + n + 1: INF}, 20), 2, k, n))
        case("matmul", {}, leaf([0.0] * (m * k), m, k), leaf(spoilt(k * n, {0: NAN, 1: INF}), k, n))  # 0 · NaN is no 0
        case("matmul", {}, leaf([tiny * (i % 7 + 1) for i in range(m * k)], m, k),
             leaf([2.0 * (i % 3 + 1) for i in range(k * n)], k, n),
             grad=data([middle] * (m * n), m, n))
        for op in ("linear", "linear_relu"):
            case(op, {}, leaf(ordinary(m * k), m, k), leaf(ordinary(n * k), n, k), leaf(spoilt(n, {0: NAN, n - 1: INF})))
        case("matmul", {}, leaf(ordinary(m * k), m, k), leaf(ordinary(k * n), k, n),
             grad=data(spoilt(m * n, {0: NAN, m * n - 1: INF}), m, n))
        case("linear", {}, leaf(ordinary(m * k), m, k), leaf(ordinary(k * n), n, k), leaf(ordinary(n)),
             grad=data(spoilt(m * n, {0: NAN, m * n - 1: INF}), m, n))

    # Convolution: small, as a product over positions, by the library; specials in image, weight, bias and gradient.
    # Infinite weights and gradients without padding only: whether its zeros take part differs within PyTorch.
    for x, w, attributes in [((1, 3, 5, 5), (2, 3, 3, 3), {"stride": [2, 2], "padding": [1, 1]}),
                             ((1, 17, 3, 3), (2, 17, 3, 3), {"padding": [1, 1]}),
                             ((1, 4, 4, 4), (4, 1, 3, 3), {"groups": 4}), ((1, 3, 4, 4), (2, 3, 1, 1), {})]:
        nx, nw, k = math.prod(x), math.prod(w), w[0]
        y = list(conv(attributes, torch.zeros(x), torch.zeros(w)).shape)
        for places in ({}, {0: NAN}, {nx - 1: NAN}, {0: INF, nx - 1: -INF}):
            for op in ("conv2d", "conv2d_relu"):
                case(op, attributes, leaf(spoilt(nx, places), *x), leaf(ordinary(nw, 20), *w), leaf(ordinary(k)))
        for op in ("conv2d", "conv2d_relu"):
            case(op, attributes, leaf(ordinary(nx), *x), leaf(ordinary(nw, 20), *w),
                 leaf(spoilt(k, {0: NAN, 1: INF, k - 1: -INF})))
        case("conv2d", attributes, leaf([tiny * (i % 7 + 1) for i in range(nx)], *x),
             leaf([2.0 * (i % 3 + 1) for i in range(nw)], *w), grad=data([2.0] * math.prod(y), *y))
        case("conv2d", attributes, leaf([1.0] * nx, *x), leaf([2.0] * nw, *w), leaf([0.0] * k),
             grad=data([middle / 64] * math.prod(y), *y))
        if "padding" not in attributes:
            for places in ({0: NAN}, {nw - 1: INF}):
                case("conv2d", attributes, leaf(ordinary(nx), *x), leaf(spoilt(nw, places, 20), *w))
            n = math.prod(y)
            case("conv2d", attributes, leaf(ordinary(nx), *x), leaf(ordinary(nw, 20), *w), leaf(ordinary(k)),
                 grad=data(spoilt(n, {0: NAN, n - 1: INF}), *y))

    # Pools: windows of one kind, windows with a special anywhere, nothing but −inf beside the padding.
    image = (1, 3, 5, 5)
    n = math.prod(image)
    images = [spoilt(n, {i: special for i in range(0, n, 7)}) for special in (NAN, INF, -INF, largest)]
    images += [[special] * n for special in (NAN, INF, -INF, -largest, -0.0, tiny, -tiny)]
    images += [spoilt(n, {0: NAN, n - 1: NAN}), spoilt(n, {0: INF, 1: NAN, n - 2: NAN, n - 1: INF}),
               spoilt(n, {6: -INF, 7: INF}),
               [-INF] * (n - 2) + [NAN, -INF], [tiny * ((7 * i) % 31 - 15) for i in range(n)],
               [-1.0 - i for i in range(n)]]
    for values in images:
        for kernel, stride, padding, more in [([2, 2], [2, 2], [0, 0], {}), ([3, 3], [2, 2], [1, 1], {}),
                                              ([2, 2], [2, 1], [1, 0], {"ceil": True})]:
            window = {"kernel": kernel, "stride": stride, "padding": padding, **more}
            case("max_pool2d", window, leaf(values, *image))
            if largest not in values and -largest not in values:
                case("avg_pool2d", {**window, "include": padding == [1, 0]}, leaf(values, *image))
        if largest not in values and -largest not in values:
            case("adaptive_avg_pool2d", {"output": [2, 3]}, leaf(values, *image))
    case("max_pool2d", {"kernel": [2, 2], "stride": [1, 1], "padding": [1, 1], "dilation": [2, 2]},
         leaf(spoilt(n, {0: NAN, 12: -INF, n - 1: INF}), *image))
    wide = (1, 19, 3, 3)
    for place in (0, 18 * 9, 19 * 9 - 1, 16 * 9 + 4):
        case("max_pool2d", {"kernel": [3, 3], "stride": [1, 1], "padding": [1, 1]},
             leaf(spoilt(19 * 9, {place: NAN}), *wide))
    for op, attributes in [("max_pool2d", {"kernel": [3, 3], "stride": [2, 2], "padding": [1, 1]}),
                           ("avg_pool2d", {"kernel": [3, 3], "stride": [2, 2], "padding": [1, 1]}),
                           ("adaptive_avg_pool2d", {"output": [3, 3]})]:
        case(op, attributes, leaf(ordinary(n), *image), grad=data(spoilt(27, {0: NAN, 9: INF, 22: -INF, 26: tiny}), 1,
                3, 3, 3))

    # Batch norm: a channel for each special, one value per channel, variance 0, momentum 0 and 1.
    channels = [[1.0, 2.0, -1.0, 0.5], [NAN, 2.0, -1.0, 0.5], [1.0, 2.0, INF, 0.5], [1.0, 2.0, -1.0, -INF],
                [INF, 2.0, -INF, 0.5],
                [3.0] * 4, [-0.0] * 4, [tiny, -tiny, 2 * tiny, 0.0], [middle, 0.0, middle, 0.0],
                [8.0, 9.0, 10.0, 11.0], [NAN] * 4]
    c = len(channels)
    columns = torch.tensor(channels, dtype=dtype).T
    statistics = ([0.5, 1.0, NAN, INF, -INF, 0.0, 0.0, tiny, 0.25, -1.0, 2.0],
                  [1.0, 2.0, 1.0, 1.0, 1.0, 0.0, NAN, tiny, INF, 0.5, -1.0])
    for shape in ((4, c), (2, c, 2, 1)):
        x = columns.reshape(2, 2, c, 1).permute(0, 2, 1, 3).reshape(shape) if len(shape) == 4 else columns
        for op in ("batch_norm", "batch_norm_relu") if len(shape) == 4 else ("batch_norm",):
            def inputs(values, scale=ordinary(c, 40), shift=ordinary(c), run=([0.0] * c, [1.0] * c)):
                return (leaf(values.tolist(), *values.shape), leaf(scale, c), leaf(shift, c), data(run[0], c),
                        data(run[1], c))
            # What ReLU makes of an infinite scale hangs on the order that centred_first() speaks of.
            scales = [v for v in specials if abs(v) != largest and (op == "batch_norm" or not math.isinf(v))][:c]
            scales += ordinary(c - len(scales))
            for momentum in (0.1, 0.0, 1.0) if len(shape) == 4 else (0.1,):
                case(op, {"training": True, "momentum": momentum}, *inputs(x), differs=in_double)
            case(op, {"training": True}, *inputs(x, run=statistics), differs=in_double)
            case(op, {"training": True, "momentum": 0.0}, *inputs(x, run=statistics), differs=in_double)
            case(op, {"training": False}, *inputs(x), differs=in_double)
            case(op, {"training": False}, *inputs(torch.ones_like(x) * 0.75, run=statistics), differs=in_double)
            # One value per channel.
            case(op, {"training": False}, *inputs(x[:1, :, :1] if len(shape) == 4 else x[:1], run=statistics),
                 differs=in_double)
            good = torch.tensor(ordinary(4 * c), dtype=dtype).reshape(shape)
            for training in (True, False):
                case(op, {"training": training}, *inputs(good, scales, ordinary(c)), differs=centred_first)
                case(op, {"training": training}, *inputs(good, ordinary(c, 40), specials[:c]), differs=in_double)
                case(op, {"training": training}, *inputs(good),
                     grad=data(spoilt(4 * c, {0: NAN, 1: INF, 2: -INF, 3: tiny}), *shape), differs=in_double)
    case("batch_norm_relu", {"training": True}, *inputs(good), leaf(spoilt(4 * c, {0: NAN, 1: INF, 2: -INF}), *shape),
         differs=in_double)

    # Dropout without chance: with p between 0 and 1 the test looks at the mask.
    for p, training in ((0.5, False), (0.0, True), (1.0, True)):
        case("dropout", {"p": p, "training": training}, leaf(specials * 2), grad=data((upstreams * 3)[:26]))


for dtype in (torch.float32, torch.float64):
    grid(dtype)
rows = [f'{{"dtypes":{json.dumps(dtypes)},{row[1:]}' for row, dtypes in cases.items()]
print('{"texts":[\n' + ",\n".join(json.dumps(t) for t in texts) + '\n],"cases":[\n' + ",\n".join(rows) + "\n]}")
