"""Protects against the costliest silent fault: a tensor under the wrong rule."""

import itertools

import pytest
import torch
from torch import nn

from celo2 import InputError
from celo2.evaluate.torch_demo.gpt import GPT
from celo2.torch import Celo2
from tests.cases import THETA


def rules(params, **options):
    return {
        route.name: (route.rule, route.why)
        for route in Celo2(params, lr=1e-3, theta=THETA, **options).routing()
    }


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(50, 8)
        self.hidden = nn.Linear(8, 8)
        self.out = nn.Linear(8, 50, bias=False)
        self.out.weight = self.words.weight


class Zoo(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8)
        self.grouped = nn.Conv2d(8, 16, 3, groups=2)
        self.up = nn.ConvTranspose2d(16, 8, 2, groups=2)
        self.norm = nn.BatchNorm2d(8)
        self.attention = nn.MultiheadAttention(8, 2)
        self.lstm = nn.LSTM(8, 8)
        self.gru = nn.GRU(8, 8)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 8))
        self.pos_embed = nn.Parameter(torch.zeros(1, 5, 8))
        self.gain = nn.Parameter(torch.ones(8))
        self.mix = nn.Parameter(torch.ones(8, 8))
        self.fc1 = nn.Linear(8, 8)
        self.fc2 = nn.Linear(8, 3)


def test_gpt():
    found = rules(GPT())
    hidden = {name for name, (rule, _) in found.items() if rule == "celo2"}
    assert hidden == {
        f"blocks.{i}.{kind}.weight"
        for i in range(4)
        for kind in ("qkv", "projection", "up", "down")
    }
    assert found["head.weight"] == ("adamw", "output head (Linear, by its name)")
    assert found["token_embedding.weight"] == ("adamw", "embedding (Embedding)")
    assert found["blocks.0.norm1.weight"] == ("adamw", "norm (LayerNorm)")


def test_tied_weights_go_with_the_embedding():
    found = rules(Tied())
    assert found["words.weight"] == ("adamw", "embedding (Embedding)")
    assert found["hidden.weight"][0] == "celo2"
    assert set(found) == {"words.weight", "hidden.weight", "hidden.bias"}


def test_every_kind_of_module():
    found = rules(Zoo())
    assert {name for name, (rule, _) in found.items() if rule == "celo2"} == {
        "stem.weight", "grouped.weight", "up.weight", "mix", "fc1.weight",
        "attention.in_proj_weight", "attention.out_proj.weight",
        "lstm.weight_ih_l0", "lstm.weight_hh_l0", "gru.weight_ih_l0", "gru.weight_hh_l0",
    }  # fmt: skip
    assert found["grouped.weight"][1] == "convolution (Conv2d), 2 groups"
    assert found["depthwise.weight"][1] == "depthwise convolution (Conv2d): no matrix in it"
    assert found["attention.in_proj_weight"][1] == "fused QKV, three matrices"
    assert found["fc2.weight"][1] == "output head (Linear, the last layer)"
    assert found["cls_token"][1] == found["pos_embed"][1] == "embedding, by its name"


def step_of(module, name, grad):
    """The update of one weight by one step at learning rate 1."""
    p = module.get_parameter(name)
    before = p.detach().clone()
    optimizer = Celo2(
        nn.ModuleList([module, nn.Linear(2, 2), nn.Linear(2, 2)]), lr=1.0, theta=THETA
    )
    p.grad = grad
    optimizer.step()
    return before - p.detach()


def test_a_convolution_kernel_is_one_matrix():
    """A kernel updates as the linear layer that takes its unfolded input, (taps * in, out)."""
    torch.manual_seed(0)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        conv, grad = nn.Conv2d(3, 16, 3).to(memory_format=memory_format), torch.randn(16, 3, 3, 3)
        together = step_of(conv, "weight", grad)
        flat = nn.Linear(27, 16)
        flat.weight.data.copy_((conv.weight.detach() + together).flatten(1))
        expected = step_of(flat, "weight", grad.flatten(1))
        torch.testing.assert_close(together.flatten(1), expected, rtol=0, atol=1e-4)


def test_each_tap_is_a_matrix_if_axes_say_so():
    torch.manual_seed(0)
    conv, grad = nn.Conv2d(4, 6, 3), torch.randn(6, 4, 3, 3)
    group = {"params": [conv.weight], "axes": (1, 0)}
    tap = nn.Linear(4, 6)
    tap.weight.data.copy_(conv.weight.detach()[:, :, 1, 2])
    before = conv.weight.detach().clone()
    optimizer = Celo2([group], lr=1.0, theta=THETA)
    conv.weight.grad = grad
    optimizer.step()
    expected = step_of(tap, "weight", grad[:, :, 1, 2].contiguous())
    torch.testing.assert_close(
        (before - conv.weight.detach())[:, :, 1, 2], expected, rtol=0, atol=1e-5
    )


def test_a_grouped_convolution_is_the_convolutions_of_its_groups():
    torch.manual_seed(0)
    grouped, grad = nn.Conv2d(8, 16, 3, groups=2), torch.randn(16, 4, 3, 3)
    together = step_of(grouped, "weight", grad)
    for half in range(2):
        alone = nn.Conv2d(4, 8, 3)
        rows = slice(8 * half, 8 * half + 8)
        alone.weight.data.copy_(grouped.weight.detach()[rows] + together[rows])
        torch.testing.assert_close(
            step_of(alone, "weight", grad[rows]), together[rows], rtol=0, atol=1e-4
        )


def test_a_transposed_convolution_is_the_convolution_with_in_and_out_swapped():
    torch.manual_seed(0)
    up, grad = nn.ConvTranspose2d(6, 10, 3), torch.randn(6, 10, 3, 3)
    plain = nn.Conv2d(6, 10, 3)
    plain.weight.data.copy_(up.weight.detach().transpose(0, 1))
    expected = step_of(plain, "weight", grad.transpose(0, 1).contiguous())
    torch.testing.assert_close(
        step_of(up, "weight", grad), expected.transpose(0, 1), rtol=0, atol=1e-5
    )


def test_the_gates_of_an_lstm_are_matrices_of_their_own():
    torch.manual_seed(0)
    lstm, grad = nn.LSTM(6, 5), torch.randn(20, 6)
    together = step_of(lstm, "weight_ih_l0", grad)
    gate = nn.Linear(6, 5)
    gate.weight.data.copy_(lstm.weight_ih_l0.detach()[5:10] + together[5:10])
    torch.testing.assert_close(
        step_of(gate, "weight", grad[5:10]), together[5:10], rtol=0, atol=1e-4
    )


def test_models_that_name_their_head_are_believed():
    class Classifier(nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.body = nn.Sequential(nn.Dropout(), nn.Linear(8, 3)), nn.Linear(8, 8)

        def get_classifier(self):
            return self.last

    found = rules(Classifier())
    assert (found["last.1.weight"][0], found["body.weight"][0]) == ("adamw", "celo2")


def test_the_only_matrix_of_a_model_is_not_a_head():
    assert rules(nn.Linear(4, 4))["weight"][0] == "celo2"


def network(**layers):
    """A model of named layers: a list becomes a Sequential, a dict a nested model."""

    def build(layer):
        if isinstance(layer, dict):
            return network(**layer)
        return nn.Sequential(*map(build, layer)) if isinstance(layer, list) else layer

    model = nn.Module()
    for name, layer in layers.items():
        setattr(model, name, build(layer))
    return model


def linear():
    return nn.Linear(4, 4)


MODELS = {
    "gpt": (GPT(), {"token_embedding", "position_embedding", "head"}),
    "vit": (
        network(
            patch_embed=nn.Conv2d(3, 64, 4),
            pos_embed=nn.Embedding(9, 64),
            blocks=[{"attn": {"qkv": linear(), "proj": linear()}}],
            head=linear(),
        ),
        {"pos_embed", "head"},
    ),
    "unet": (
        network(
            down=nn.Conv2d(3, 4, 3), temb=linear(), up={"temb": linear()}, outc=nn.Conv2d(4, 2, 1)
        ),
        {"outc"},
    ),
    "actor critic": (
        network(body=linear(), policy_head=linear(), value_head=linear()),
        {"policy_head", "value_head"},
    ),
    "vgg": (
        network(features=[nn.Conv2d(3, 4, 3)], classifier=[linear(), nn.ReLU(), linear()]),
        {"classifier.2"},
    ),
    "squeezenet": (
        network(features=[nn.Conv2d(3, 4, 3)], classifier=[nn.Dropout(), nn.Conv2d(4, 10, 1)]),
        {"classifier.1"},
    ),
    "heads of attention": (
        network(attn={"heads": [linear()], "score": linear(), "out": linear()}, output=linear()),
        {"output"},
    ),
    "head first": (network(fc_out=linear(), a=linear(), b=linear()), {"fc_out"}),
    "siamese": (network(embedding_net=[linear(), linear()], classifier=linear()), {"classifier"}),
    "weight norm": (
        network(
            body=nn.utils.parametrizations.weight_norm(linear()),
            head=nn.utils.parametrizations.weight_norm(linear()),
        ),
        {
            "head.parametrizations.weight.original1",
            "head.parametrizations.weight.original0",
            "body.parametrizations.weight.original0",
        },
    ),
}
"""Realistic models, and what of their weights is for AdamW."""


@pytest.mark.parametrize("by", [lambda m: m, lambda m: m.named_parameters()], ids=["type", "name"])
@pytest.mark.parametrize("name", MODELS)
def test_models_by_type_and_by_name_alone(name, by):
    model, expected = MODELS[name]
    adamw = {
        n.removesuffix(".weight") for n, (rule, _) in rules(by(model)).items() if rule == "adamw"
    }
    matrices = {n.removesuffix(".weight") for n, p in model.named_parameters() if p.ndim > 1}
    assert adamw & matrices == expected


def test_the_last_layer_is_the_head_where_nothing_else_says_so():
    layers = [nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)]
    assert rules(nn.Sequential(*layers))["4.weight"] == (
        "adamw",
        "output head (Linear, the last layer)",
    )
    backbone, head = nn.Sequential(*layers[:3]), layers[4]
    found = rules([{"params": backbone, "lr": 1e-5}, {"params": head}])
    assert {name for name, (rule, _) in found.items() if rule == "celo2"} == {
        "0.weight",
        "2.weight",
    }
    stated = rules([{"params": head, "rule": "adamw"}, {"params": backbone}])
    assert {name for name, (rule, _) in stated.items() if rule == "celo2"} == {
        "0.weight",
        "2.weight",
    }
    assert all(
        rule == "celo2"
        for n, (rule, _) in rules(nn.TransformerEncoderLayer(8, 2)).items()
        if n == "linear2.weight"
    )


def test_a_model_that_says_it_has_no_head_is_believed():
    class Backbone(nn.Sequential):
        def get_output_embeddings(self):
            return None

    assert rules(Backbone(nn.Linear(4, 4), nn.Linear(4, 4)))["1.weight"][0] == "celo2"


def test_a_classifier_of_transformers_has_no_output_embeddings_but_a_head():
    class Classifier(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.classifier = nn.Linear(4, 4), nn.Linear(4, 2)

        def get_output_embeddings(self):
            return None

    found = rules(Classifier())
    assert (found["body.weight"][0], found["classifier.weight"][0]) == ("celo2", "adamw")


def test_wrappers_do_not_hide_the_head():
    model = network(module=network(body=linear(), fc=linear(), late=linear()))
    for params in (model, list(model.named_parameters())):
        assert rules(params)["module.fc.weight"][0] == "adamw"
        assert rules(params)["module.late.weight"][0] == "celo2"


def test_gains_and_biases_of_higher_rank_are_no_matrices():
    shapes = {
        "block.layer_scale": (96, 1, 1),
        "conv.weight_g": (8, 1, 1, 1),
        "query.bias": (4, 4),
        "gate": (1, 96, 1, 1),
    }
    found = rules([(name, nn.Parameter(torch.ones(shape))) for name, shape in shapes.items()])
    assert {rule for rule, _ in found.values()} == {"adamw"}


def test_a_projected_lstm_keeps_its_projection_whole():
    found = rules(nn.LSTM(8, 8, proj_size=4))
    assert found["weight_hr_l0"] == ("celo2", "hidden matrix")
    assert found["weight_ih_l0"] == ("celo2", "4 gates (LSTM)")


def test_doubtful_tensors_warn():
    with pytest.warns(
        UserWarning, match=r"512 to 8 looks like an embedding or a head; state rule= or axes="
    ):
        found = rules([nn.Parameter(torch.ones(512, 8))])
    assert found["tensor 0 of group 0"][0] == "adamw"
    with pytest.warns(UserWarning, match="32000 to 4096 looks like an embedding or a head"):
        rules([nn.Parameter(torch.empty(32000, 4096, device="meta"))])
    with pytest.warns(UserWarning, match="an axis of 64 taps looks like no convolution"):
        rules([nn.Parameter(torch.ones(4, 8, 64))])


def test_stacks_of_experts_are_no_convolutions():
    """(experts, out, in) has more "taps" than usual kernels; small experts are known by name."""
    for name, shape in (("mlp.w1", (8, 64, 32)), ("experts.w1", (8, 16, 8))):
        with pytest.warns(
            UserWarning, match="looks like no convolution.*state rule= or axes= in its group"
        ):
            found = rules([(name, nn.Parameter(torch.ones(shape)))])
        assert found[name][0] == "adamw"
    assert (
        rules([("conv.weight", nn.Parameter(torch.ones(8, 4, 7, 7)))])["conv.weight"][0] == "celo2"
    )


def test_a_bilinear_map_is_the_linear_map_of_the_products_of_its_inputs():
    torch.manual_seed(0)
    bilinear, grad = nn.Bilinear(3, 4, 5), torch.randn(5, 3, 4)
    together = step_of(bilinear, "weight", grad)
    flat = nn.Linear(12, 5)
    flat.weight.data.copy_((bilinear.weight.detach() + together).flatten(1))
    torch.testing.assert_close(
        step_of(flat, "weight", grad.flatten(1)), together.flatten(1), rtol=0, atol=1e-5
    )


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")
def test_both_forms_of_weight_norm_are_read_alike():
    def routes(weight_norm, *names):
        model = nn.Sequential(
            weight_norm(nn.Conv2d(4, 8, 3, groups=2)),
            weight_norm(nn.Linear(8, 8)),
            weight_norm(nn.Linear(8, 4)),
        )
        found = Celo2(model, lr=1e-3, theta=THETA).routing()
        return {
            route.name.replace(*names): (route.rule, route.axes, route.decays) for route in found
        }

    new = {}
    for name, route in routes(
        nn.utils.parametrizations.weight_norm, "parametrizations.weight.original", ""
    ).items():
        new[name] = route
    old = {}
    for name, route in routes(nn.utils.weight_norm, "weight_", "").items():
        old[name.replace(".g", ".0").replace(".v", ".1")] = route
    assert old == new
    assert old["0.1"][1].split_sizes == (4, 4)
    assert old["2.1"][0] == "adamw"


class CharacterGPT(nn.Module):
    """Named as nanoGPT's, of which the head may be tied to the embedding."""

    def __init__(self, tied, layers=3, width=48, vocabulary=65, context=32):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        for i in range(layers):
            block = {
                "c_attn": (width, 3 * width),
                "attn_proj": (width, width),
                "c_fc": (width, 4 * width),
            }
            block["mlp_proj"] = (4 * width, width)
            self.add_module(
                f"h{i}", nn.ModuleDict({name: nn.Linear(*shape) for name, shape in block.items()})
            )
            self.add_module(f"ln{i}", nn.LayerNorm(width))
        self.lm_head = nn.Linear(width, vocabulary, bias=False)
        if tied:
            self.lm_head.weight = self.wte.weight


def decay_groups(model):
    """Two groups of tensors without names, as nanoGPT's configure_optimizers makes them."""
    params = [p for p in model.parameters() if p.requires_grad]
    decay = [p for p in params if p.dim() >= 2]
    return [
        {"params": decay, "weight_decay": 0.1},
        {"params": [p for p in params if p.dim() < 2], "weight_decay": 0.0},
    ]


def mlp(*widths):
    return nn.Sequential(*(nn.Linear(a, b) for a, b in itertools.pairwise(widths)))


UNNAMED = {
    "gpt": (CharacterGPT(tied=False), {"wte.weight", "wpe.weight", "lm_head.weight"}),
    "tied gpt": (CharacterGPT(tied=True), {"wte.weight", "wpe.weight"}),
    "gpt of one block": (
        CharacterGPT(tied=False, layers=1), {"wte.weight", "wpe.weight", "lm_head.weight"},
    ),
    "gpt of bytes": (
        CharacterGPT(tied=False, vocabulary=256, width=128),
        {"wte.weight", "wpe.weight", "lm_head.weight"},
    ),
    "classifier": (mlp(20, 16, 16, 4), {"2.weight"}),
    "autoencoder": (mlp(30, 16, 8, 16, 30), {"3.weight"}),
    "network of one width": (mlp(8, 8, 8), set()),
    "lstm": (
        nn.ModuleList([nn.Embedding(65, 16), nn.LSTM(16, 32), nn.Linear(32, 65)]),
        {"0.weight", "2.weight"},
    ),
    "conv net": (
        nn.Sequential(
            nn.Conv2d(1, 8, 3), nn.Conv2d(8, 16, 3), nn.Linear(64, 16), nn.Linear(16, 10)
        ),
        {"3.weight"},
    ),
}  # fmt: skip
"""Models, and what of their matrices is for AdamW when tensors come without names."""


@pytest.mark.parametrize("name", UNNAMED)
def test_tensors_without_names_are_routed_by_their_place_and_shape(name):
    model, expected = UNNAMED[name]
    with pytest.warns(
        UserWarning, match="came without names.*pass the model, or model.named_parameters"
    ) as caught:
        optimizer = Celo2(decay_groups(model), lr=1e-3, theta=THETA)
    assert len(caught) == 1
    adamw = {
        id(p)
        for group in optimizer.param_groups
        if group["rule"] == "adamw"
        for p in group["params"]
    }
    assert {n for n, p in model.named_parameters() if p.ndim > 1 and id(p) in adamw} == expected


def test_unnamed_tensors_beside_a_stated_rule_are_not_guessed_at():
    model = mlp(8, 8, 8, 4)
    groups = [
        {"params": [model[2].weight], "rule": "adamw"},
        {"params": [model[0].weight, model[1].weight]},
    ]
    assert [rule for rule, _ in rules(groups).values()] == ["adamw", "celo2", "celo2"]


def test_overrides_by_pattern_function_and_group():
    model = GPT()
    assert rules(model, route={r"blocks\.0\.": "adamw"})["blocks.0.up.weight"] == (
        "adamw",
        r"by your pattern 'blocks\\.0\\.'",
    )
    chosen = rules(model, route=lambda name, shape: "celo2" if shape == (256, 128) else None)
    assert chosen["head.weight"] == ("celo2", "by your function")
    assert rules([{"params": model, "rule": "adamw"}])["blocks.0.up.weight"] == (
        "adamw",
        "stated by its group",
    )
    with pytest.raises(InputError, match="unknown rule 'muon': say 'celo2' or 'adamw'"):
        rules(model, route={"head": "muon"})


def test_without_orthogonalization_the_rule_updates_everything():
    assert {rule for rule, _ in rules(Zoo(), orthogonalize=False).values()} == {"celo2"}


def test_the_table_has_a_line_a_parameter():
    routing = Celo2(GPT(), lr=1e-3, theta=THETA).routing()
    lines = str(routing).splitlines()
    assert lines[0].split() == ["name", "shape", "rule", "why"]
    assert len(lines) == 1 + len(routing) == 1 + len(list(GPT().parameters()))
    assert "128x128  celo2  hidden matrix (Linear)" in str(routing)


def test_names_beside_tensors_are_kept():
    """The base class writes groups with `param_names`; frameworks pass such groups on."""
    names = ["wte.weight", "block.fc.weight"]
    group = {"params": [torch.ones(50, 8), torch.ones(8, 8)], "param_names": names}
    assert {name: rule for name, (rule, _) in rules([group]).items()} == {
        "wte.weight": "adamw",
        "block.fc.weight": "celo2",
    }
    with pytest.raises(
        InputError, match="a group has 2 params and 1 param_names; give a name for each"
    ):
        rules([{**group, "param_names": names[:1]}])
