"""What the commands are and do, with the options of each that matter most; nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from textwrap import fill

_WIDTH = 100


@dataclass(frozen=True)
class Command:
    """A command as its help shows it.

    Attributes:
        usage: What it takes, with an option or two.
        summary: What it does, in a few words.
        about: What it does and what its arguments are.
        options: Those that matter most, with what each sets, in a line.
    """

    usage: str
    summary: str
    about: str
    options: Mapping[str, str]

    def short_help(self) -> str:
        """Usage, what the command does, and the options that matter most, a line each."""
        name = self.usage.split()[0]
        width = max(map(len, self.options))
        lines = "\n".join(f"  {option:<{width}}  {text}" for option, text in self.options.items())
        return (
            f"usage: withstand {self.usage}\n\n{fill(self.about, _WIDTH)}\n\n{lines}\n\n"
            f"All options, with types and defaults: withstand {name} --help-all"
        )


_OF_TRAINING = {
    "--data.name=mnist": "of `withstand data`, folder:PATH, PATH.npz, FILE.py:FUNCTION",
    "--model.name=lenet": "of `withstand recipes --models`, FILE.py:FUNCTION, net.onnx",
    "--objective=Adversarial": "what is minimised; --objective.help=Adversarial explains it",
    "--training.epochs=20": "how often the training images are passed over",
    "--training.batch_size=128": "images a step",
    "--training.optimizer=torch.optim.SGD": "what minimises; --training.optimizer.lr=0.1 sets its rate",
    "--training.accelerator=cpu": "the device to train on; --training.devices=2 takes two",
    "--seed=1": "fixes weights, order, augmentation and attacks",
    "--out=DIR": "the run folder, runs/NAME by default",
}
_OF_SWEEPS = ("--data", "--model", "--objective", "--training.epochs", "--seed")
_PRINTED = {"--print_config": "show all values of the recipe, and do nothing"}
_EPSILONS = {"--evaluation.meters.0.epsilons=[8/255]": "radii in [0, 1] units, of the first item of meters"}
_DATA_ROOT = {"--data.root=DIR": "where the data are, as the run's by default"}
_MODEL = (
    "MODEL is path/to/file.py:function, package.module:function or a model's name, with --weights, or an "
    "ONNX file net.onnx; with --data.name and --out: a run folder is made of it. A name that `withstand zoo` "
    "lists may stand for RUN: it is copied to runs/NAME."
)
_OF_A_MODEL = {
    "--weights=FILE": "of MODEL: .safetensors, .pt, .ckpt …, or a run folder",
    "--data.name=mnist": "of MODEL: the data",
    "--out=DIR": "of MODEL: the run folder to make, runs/MODEL by default",
}
_PAGE = {
    "--title=TEXT": "the title of the page",
    "--tables=DIR": "write its tables there too, in Markdown and LaTeX",
    "--figures=svg": "write its figures too, as svg or png, into a folder beside the page",
}
_RECIPE = "RECIPE is a name that `withstand recipes` lists, or a YAML file."

COMMANDS = {
    "run": Command(
        "run RECIPE [--key=value …] [--out=DIR]",
        "train, evaluate and report",
        f"Train a recipe, evaluate it, and write its report. {_RECIPE}",
        _OF_TRAINING | _EPSILONS,
    ),
    "train": Command(
        "train RECIPE [--key=value …] [--out=DIR]",
        "train, or go on where it was stopped",
        f"Train a recipe, or go on where it was stopped. {_RECIPE}",
        _OF_TRAINING | _PRINTED,
    ),
    "evaluate": Command(
        "evaluate RUN|MODEL [--weights=FILE] [--evaluation.key=value …]",
        "measure a trained run, or a model of your own",
        "Measure clean accuracy, accuracy under each attack at each epsilon, and what is certified. RUN is a "
        f"run folder; --evaluation.… changes what its recipe measures. {_MODEL} Where no meters are named it "
        "is measured by the suite fast and under noise, and reported.",
        {
            **_OF_A_MODEL,
            "--evaluation.num_examples=1000": "score only so many test examples, of each class its share",
            "--evaluation.weights=last": "of the last epoch; best, on validation data, by default",
            **_EPSILONS,
            "--evaluation.meters+=KernelNorms": "measure one thing more: Suite, Certificate, NoiseCurve …",
            "--evaluation.meters.help=Suite": "explain one",
            "--on=ray": "batches scored by --workers=4 of Ray, or by ray://HOST:PORT",
            **_PRINTED,
        },
    ),
    "certify": Command(
        "certify RUN|MODEL [--norm=2 --epsilons=[0.5] …]",
        "prove what no attack can change",
        "Prove of each test example, where it can be proven, that no image within epsilon changes its "
        f"prediction. RUN is a run folder: what is certified is added to its rows and metrics. {_MODEL} What "
        "is left out is as the run's recipe says.",
        {
            "--norm=2": "of the ball, 1, 2 or inf",
            "--epsilons=[0.5,1.58]": "radii in [0, 1] units",
            "--method=best": "or box, ball, box_ball, linear, linear-optimised, branch-and-bound; several",
            "--timeout=10": "seconds an image, at each epsilon, that branch-and-bound may take",
            "--clip=true": "whether the attacker stays in [0, 1]",
            "--radius=true": "find the largest certified epsilon of each example, too",
            "--num_examples=1000": "only so many test examples, of each class its share",
            **_OF_A_MODEL,
        },
    ),
    "verify": Command(
        "verify MODEL PROPERTY.vnnlib [--timeout=60] | --instances=FILE.csv",
        "prove a property in VNN-LIB, or refute it",
        "Prove a property of a network, or find a counter-example. MODEL is net.onnx, a run folder, or what "
        "ws.load takes; PROPERTY is in VNN-LIB 1.0. The first line that is printed is unsat (proven), sat (a "
        "counter-example follows, which was run through the model itself), unknown or timeout. Exit status: "
        "0 for each of these four, as the competitions' run_instance.sh has it, 2 where model or property "
        "cannot be used, 130 where it was interrupted. --instances runs a whole benchmark, each instance in "
        "a process of its own, goes on where it was stopped, and writes results.csv and verify.html.",
        {
            "--timeout=60": "seconds; of instances at most so many",
            "--results_file=FILE": "write result and counter-example there",
            "--input_shape=[1,28,28]": "of one input; ONNX files and runs say theirs",
            "--weights=FILE": "of a MODEL that is named",
            "--dataset=mnist": "of a MODEL that is named: the data that it is for",
            "--instances=instances.csv": "lines net.onnx,property.vnnlib,seconds; names relative to the file",
            "--out=DIR": "of instances: the folder, runs/verify-NAME by default",
        },
    ),
    "check": Command(
        "check MODEL|RECIPE|RUN [--data.name=NAME]",
        "say what can be done with a model, and how to go on",
        "Try everything on a model and two images, before any run: say what it takes and returns, whether "
        "it normalises, which kinds of training and measurement work, why the others do not and what to do "
        "about it, what a step of each costs, how far its layers can stretch, and which command to run next. "
        "MODEL is path/to/file.py:function, package.module:function, net.onnx or a model's name, with "
        "--data.name; "
        "RECIPE a name or a YAML file, and RUN a run folder, with any --key=value of theirs.",
        {
            "--data.name=mnist": "of MODEL: the data, by which its images and classes are known",
            "--data.root=DIR": "where the data are; random images are taken where they are not here",
            "--weights=FILE": "of MODEL: its weights; random ones without",
            "--format=json": "print all of it for machines; text by default",
            "--data.size=32": "height and width to which pictures of a folder are brought",
            "--model.normalize=true": "put the data's normalisation before MODEL",
            "--model.options={width: 2}": "arguments of the model's builder",
        },
    ),
    "moments": Command(
        "moments RUN|MODEL [--noise_std=[0.1,0.2] …]",
        "compare analytic moments under noise with samples",
        "Compare the analytic mean and standard deviation of each logit under Gaussian noise with samples: "
        "errors and times of each analytic form, and of each type of layer. RUN is a run folder; the figures "
        f"are added to its metrics. {_MODEL}",
        {
            "--noise_std=[0.1,0.2]": "standard deviations of the noise, in [0, 1] units",
            "--methods=[diagonal,full]": "which analytic forms",
            "--num_examples=3": "only the first so many images",
            "--num_samples=1000": "noise draws an image and level",
            "--blur=1.0": "width in pixels of a filter of the noise, 0 for white",
            "--most_coordinates=2000": "of the widest layer for which whole covariances are tried",
            **_OF_A_MODEL,
            **_DATA_ROOT,
        },
    ),
    "attack": Command(
        "attack RUN|MODEL [--epsilon=8/255 …]",
        "try an attack of your own on a trained run",
        "Attack a trained run by PGD as you set it. RUN is a run folder; the results of its evaluation stay, "
        f"and the attack is added to it. {_MODEL}",
        {
            "--epsilon=8/255": "radius of the ball, in [0, 1] units",
            "--norm=inf": "of the ball, 1, 2 or inf",
            "--num_steps=40": "gradient steps",
            "--step_size=2/255": "length of a step; 2.5 epsilon / num_steps by default",
            "--num_restarts=5": "how often to start; the worst image counts",
            "--loss=withstand.attacks.margin": "what to climb; cross-entropy by default",
            "--num_examples=1000": "only so many test examples, of each class its share",
            **_OF_A_MODEL,
        },
    ),
    "sweep": Command(
        "sweep SWEEP|RECIPE [--over key=v1,v2 …]",
        "run a recipe at every combination of values",
        "Train and evaluate a recipe at every combination of some values, one after another or on a cluster "
        "of Ray, and write one page of all. SWEEP is a packaged name or a YAML file with name, recipe, over "
        "and variants; with a RECIPE --over says what to vary. Points that are done are passed over, "
        "so the same command goes on where it was stopped.",
        {
            "--over seed=0,1,2": "what to vary; may be repeated",
            **{option: _OF_TRAINING[option] for option in _OF_TRAINING if option.startswith(_OF_SWEEPS)},
            "--out=DIR|URL": "the folder, or its URL in a store (s3://…); runs/NAME by default",
            "--on=ray": "on all CPUs of this machine; ray:HOST:PORT or ray://HOST:PORT: on a cluster",
            "--cpus=1": "on Ray: CPUs of a trial, and its threads; --gpus=1, or a part, too",
            "--scheduler=asha": "on Ray: stop trials early that others overtake",
        },
    ),
    "reproduce": Command(
        "reproduce [NAME …] [--check] [--results=DIR]",
        "run kept results anew, and say which figures moved",
        "Run anew what a folder of results keeps of runs: each is trained by its recipe with its seed, "
        "measured by the same meters, and compared figure by figure; its small files are then replaced, and "
        "the pages that quote them written anew. Only what has changed is run: recipe, data, the code "
        "that they need, or torch. A killed run goes on by the same command. NAME is a folder of the "
        "results, such as digits-certified, or one with several runs; all where none is named.",
        {
            "--check": "only say what would be run, and why",
            "--again": "run what has not changed, too, from its start",
            "--results=DIR": "the folder of results, results by default",
            "--runs=DIR": "where to train and measure, runs/reproduce by default",
            "--data.root=DIR": "where the data are",
        },
    ),
    "compare": Command(
        "compare DIR [DIR …] [--out=PAGE] [--tables=DIR] [--figures=svg]",
        "compare runs with each other",
        "Compare runs with each other on one page: trade-offs, tables that sort, and differences on the "
        "same test examples with paired intervals. DIR is a run folder, or a folder with run folders below "
        "it, such as a sweep's. The first run is the baseline.",
        {"--out=PAGE": "the page; compare.html in the only DIR, or here, by default"} | _PAGE,
    ),
    "report": Command(
        "report RUN [RUN …] [--out=PAGE]",
        "write the page of one or several runs",
        "Write one self-contained page from one or several run folders.",
        {"--out=PAGE": "the page; RUN/report.html for one run by default"} | _PAGE,
    ),
    "export": Command(
        "export RUN|MODEL [--format=onnx|vnnlib] [--out=PATH]",
        "write a trained network as ONNX, alone or with properties to verify",
        "Write a trained network as ONNX, for onnxruntime, verifiers and other tools: of images in [0, 1], "
        "with its normalisation inside, and compared with the network before it is there. RUN is a run "
        "folder. MODEL is path/to/file.py:function, package.module:function, net.onnx or a model's name, "
        "with --weights and --data.name.",
        {
            "--out=PATH": "RUN/model.onnx or MODEL.onnx by default; of vnnlib a folder, named alike",
            "--format=vnnlib": "write robustness of test images beside it, for withstand verify and others",
            "--epsilon=0.1": "of vnnlib: radius of the linf ball, in [0, 1] units",
            "--count=10": "of vnnlib: how many test images",
            "--weights=FILE": "of MODEL: .safetensors, .pt, .ckpt …, or a run folder",
            "--data.name=mnist": "of MODEL: the data; of a run, others to compare on",
            **_DATA_ROOT,
        },
    ),
    "push": Command(
        "push RUN hub:OWNER/NAME|FOLDER",
        "share a run with a model card",
        "Share the weights, recipe and figures of a run, with a model card written from its measurements: in "
        "a repository of the Hugging Face Hub, which is made where there is none, or in a folder. Data, "
        "images of them and rows of single examples stay here.",
        {"--private=true": "whether a repository that is made is private"},
    ),
    "pull": Command(
        "pull hub:OWNER/NAME|FOLDER [--out=DIR]",
        "make a run folder of a shared run",
        "Make a run folder of what push shared, for all other commands.",
        {"--out=DIR": "the run folder, runs/NAME by default", "--revision=v1": "branch, tag or commit"},
    ),
    "zoo": Command(
        "zoo [NAME …] [--format=json]",
        "list the trained nets that come with the package",
        "List the trained nets that come with the package, each with its data, an epsilon, and clean, "
        "attacked and proven accuracy. Each is loaded by its name: ws.load(NAME), or as the RUN of evaluate, "
        "certify, attack and moments, which copy it to runs/NAME, and of check and export.",
        {"--format=json": "print all that is known: intervals, commands, versions, licence, checksums"},
    ),
    "recipes": Command(
        "recipes [NAME]",
        "list the recipes and sweeps, or print one",
        "List the recipes and sweeps that come with the package, or print one of them.",
        {"--models": "list the models that recipes can name instead"},
    ),
    "data": Command(
        "data [fetch NAME]",
        "list the data sets, or fetch one",
        "List the data sets and whether their files are here, or fetch one.",
        {"--root=DIR": "where the data are; else WITHSTAND_DATA, else ./data"},
    ),
}
