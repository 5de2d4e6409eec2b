"""Protects users of other frameworks: the real package runs each example and its checkpoints."""

import importlib
import os
import sys

import pytest
import torch

from celo2 import InputError

os.environ["HF_HUB_OFFLINE"] = "1"  # read when Transformers is imported
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


@pytest.fixture(scope="module", autouse=True)
def importable_torchvision():
    """Declare two operators of torchvision where its library does not load, so timm can import it.

    PyPI's torchvision is linked against PyTorch with CUDA; beside a CPU build its Python part fails
    when it registers shapes for these two; timm needs that part (torchvision.ops.misc), but neither
    operator.
    """
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        yield
        library._destroy()
    else:
        yield


@pytest.fixture
def run_main(monkeypatch, capsys):
    """Run an example as its users do.

    Returns {name: (rule, why)} of the table it prints, the first and the last loss, the module.
    """

    def run(name, *arguments):
        example = importlib.import_module(f"examples.{name}")
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        capsys.readouterr()
        example.main()
        lines = capsys.readouterr().out.splitlines()
        start = next(
            i for i, line in enumerate(lines) if line.split() == ["name", "shape", "rule", "why"]
        )
        rows = [line.split(maxsplit=3) for line in lines[start + 1 : -1]]
        words = lines[-1].split()
        return {row[0]: tuple(row[2:]) for row in rows}, float(words[1]), float(words[-4]), example

    return run


def ruled(routes, rule):
    return {name: why for name, (whose, why) in routes.items() if whose == rule}


def assert_same_state(ours, theirs):
    """Two state dicts of an optimizer are equal, every accumulator to the bit."""
    assert ours["param_groups"] == theirs["param_groups"]
    assert ours["state"].keys() == theirs["state"].keys()
    for i, state in ours["state"].items():
        for key, value in state.items():
            assert torch.equal(value, theirs["state"][i][key]), (i, key)


def test_transformers_trainer(tmp_path, run_main):
    routes, first, last, example = run_main("transformers_trainer", tmp_path / "whole")
    assert last < 0.5 * first
    block = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    layers = [f"transformer.h.{i}.{name}.weight" for i in (0, 1) for name in block]
    assert ruled(routes, "celo2") == dict.fromkeys(layers, "hidden matrix, stored (in, out)")
    assert routes["transformer.wte.weight"] == ("adamw", "embedding (Embedding)")

    resumed = example.small_trainer(str(tmp_path / "resumed"))
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole/checkpoint-20"))
    assert resumed.optimizer.param_groups[0]["param_names"] == layers
    whole = torch.load(tmp_path / "whole/checkpoint-40/optimizer.pt")
    assert_same_state(resumed.optimizer.state_dict(), whole)


def test_transformers_trainer_leaves_the_schedule_to_total_steps(tmp_path):
    """Trainer insists on a scheduler; a constant one is none, and any other is refused."""
    example = importlib.import_module("examples.transformers_trainer")

    def trainer(kind):
        made = example.small_trainer(str(tmp_path))
        made.optimizer_cls_and_kwargs = example.celo2_of_model, {"total_steps": 400}
        made.args.max_steps, made.args.warmup_steps = 3, 0
        made.args.lr_scheduler_type, made.args.save_steps = kind, 100
        return made

    constant, taken = trainer("constant"), []
    constant.create_optimizer()
    constant.optimizer.register_step_post_hook(
        lambda optimizer, *_: taken.append(optimizer.param_groups[0]["lr"])
    )
    constant.train()
    planned = constant.optimizer.optimizer.plan()
    assert taken[0] == pytest.approx(planned.learning_rates["hidden"][0])
    assert len(taken) == 3
    assert taken[0] < taken[1], "the second step of the warm-up"
    with pytest.raises(InputError, match="leave out the learning-rate scheduler"):
        trainer("linear").train()


def test_transformers_trainer_gives_the_class_no_names(tmp_path):
    """Why the example has a factory: the class alone would read GPT-2's matrices transposed."""
    example = importlib.import_module("examples.transformers_trainer")
    trainer = example.small_trainer(str(tmp_path))
    factory, settings = trainer.optimizer_cls_and_kwargs
    trainer.optimizer_cls_and_kwargs = factory(), settings
    with pytest.warns(
        UserWarning,
        match=r"10 matrices came without names.*pass the model, or model.named_parameters",
    ):
        optimizer = trainer.create_optimizer()
    why = {route.why for route in optimizer.routing() if route.rule == "celo2"}
    assert why == {"hidden matrix"}


@pytest.mark.filterwarnings(
    "ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning"
)  # Lightning's own call
@pytest.mark.filterwarnings("ignore:.*does not have many workers")  # advice on the DataLoader
@pytest.mark.filterwarnings(
    "ignore:The dirpath has changed"
)  # of the list of best checkpoints, which is not asked for
def test_lightning_module(tmp_path, run_main):
    routes, first, last, example = run_main("lightning_module", tmp_path / "whole")
    assert last < 0.5 * first
    assert ruled(routes, "celo2") == {
        "stem.0.weight": "convolution (Conv2d), one matrix",
        "hidden.weight": "hidden matrix (Linear)",
    }
    assert routes["out.weight"] == ("adamw", "output head (Linear, by its name)")

    whole = torch.load(tmp_path / "whole/epoch=9-step=20.ckpt")
    resumed = example.trained(
        str(tmp_path / "resumed"), checkpoint=str(tmp_path / "whole/epoch=4-step=10.ckpt")
    )
    assert len(resumed.losses) == 10
    assert_same_state(resumed.optimizers().optimizer.state_dict(), whole["optimizer_states"][0])


def test_accelerate_loop(tmp_path, run_main):
    routes, first, last, example = run_main("accelerate_loop", tmp_path / "whole")
    assert last < 0.9 * first
    assert ruled(routes, "celo2") == {
        "block.self_attn.in_proj_weight": "fused QKV, three matrices",
        "block.self_attn.out_proj.weight": "hidden matrix (NonDynamicallyQuantizableLinear)",
        "block.linear1.weight": "hidden matrix (Linear)",
        "block.linear2.weight": "hidden matrix (Linear)",
    }
    whole = torch.load(tmp_path / "whole/8/optimizer.bin")
    optimizer, losses = example.trained(tmp_path / "whole", from_epoch=4)
    assert len(losses) == 16
    assert_same_state(optimizer.state_dict(), whole)
    assert optimizer.state[optimizer.param_groups[-1]["params"][0]]["step"] == 16, (
        "one step for two of 32 batches"
    )


def test_timm_registry(run_main):
    routes, first, last, _ = run_main("timm_registry")
    assert last < 0.9 * first
    assert ruled(routes, "adamw")["head.weight"] == "output head (Linear)", "as get_classifier says"
    linear = {
        f"blocks.{i}.{name}.weight"
        for i in (0, 1)
        for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    }
    hidden = dict.fromkeys(linear, "hidden matrix (Linear)")
    assert ruled(routes, "celo2") == {
        "patch_embed.proj.weight": "convolution (Conv2d), one matrix",
        **hidden,
    }


def test_torchtitan_container(run_main):
    routes, first, last, example = run_main("torchtitan_container")
    assert last < 0.5 * first
    assert ruled(routes, "celo2") == {"feed_forward.weight": "hidden matrix (Linear)"}
    assert routes["lm_head.weight"] == ("adamw", "output head (Linear, by its name)")

    model = torch.nn.Sequential(
        torch.nn.Embedding(64, 32), torch.nn.Linear(32, 32), torch.nn.Linear(32, 64)
    )
    optimizers, _ = example.trained(model)
    optimizers.zero_grad()
    before = [p.clone() for p in model.parameters()]
    loaded = example.Celo2Optimizers.Config().build(model_parts=[model])
    loaded.load_state_dict(
        optimizers.state_dict()
    )  # torchtitan makes the state by a step at a learning rate of zero and fills it
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    saved = optimizers.state_dict()
    for key, value in loaded.state_dict().items():
        assert (
            torch.equal(value, saved[key])
            if isinstance(value, torch.Tensor)
            else value == saved[key]
        ), key
    assert saved["state.1.weight.averages"].abs().max() > 0


def test_timm_with_total_steps():
    """Its factory passes no learning rate if none is given, but a weight decay of 0."""
    example = importlib.import_module("examples.timm_registry")
    model = torch.nn.Sequential(
        torch.nn.Embedding(8, 8), torch.nn.Linear(8, 8), torch.nn.Linear(8, 4)
    )
    optimizer = example.create_optimizer_v2(
        model, "celo2", lr=None, total_steps=10, param_group_fn=example.whole_model
    )
    kinds = {group["kind"] for group in optimizer.param_groups}
    assert kinds == {"hidden", "embedding", "head", "vector"}
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0}


@pytest.mark.filterwarnings(
    "ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning"
)  # Lightning's own call
@pytest.mark.filterwarnings("ignore:.*does not have many workers")  # advice on the DataLoader
def test_lightning_with_total_steps():
    """No scheduler: the optimizer follows its plan."""
    example = importlib.import_module("examples.lightning_module")

    class Planned(example.Classifier):
        def configure_optimizers(self):
            return example.Celo2(self, total_steps=8)

    classifier = Planned()
    images, labels = torch.randn(64, 3, 8, 8), torch.randint(4, (64,))
    data = torch.utils.data.TensorDataset(images, labels)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = example.lightning.Trainer(
        accelerator="cpu", max_epochs=3, enable_checkpointing=False, **quiet
    )
    trainer.fit(classifier, torch.utils.data.DataLoader(data, batch_size=32))
    optimizer = classifier.optimizers().optimizer
    assert taken_by(optimizer) == 6
    assert optimizer.param_groups[0]["lr"] == planned(optimizer, 5)


def test_accelerate_with_total_steps_counts_updates():
    """Of two accumulated batches each; `prepare` gets no scheduler."""
    example = importlib.import_module("examples.accelerate_loop")
    accelerator = example.Accelerator(gradient_accumulation_steps=2, cpu=True)
    model, tokens = example.tagger(), torch.randint(64, (16, 4))
    optimizer = example.Celo2(model, total_steps=8)
    model, prepared = accelerator.prepare(model, optimizer)
    for _ in range(6):
        with accelerator.accumulate(model):
            accelerator.backward(model(tokens).square().mean())
            prepared.step()
            prepared.zero_grad()
    assert taken_by(optimizer) == 3
    assert optimizer.param_groups[0]["lr"] == planned(optimizer, 2)


def taken_by(optimizer):
    """Steps that a parameter under AdamW has taken."""
    adamw = next(group for group in optimizer.param_groups if group["rule"] == "adamw")
    return int(optimizer.state[adamw["params"][0]]["step"])


def planned(optimizer, step):
    """The learning rate of a step of the plan."""
    plan = optimizer.plan()
    return pytest.approx(plan.learning_rates["hidden"][plan.steps.index(step)])
