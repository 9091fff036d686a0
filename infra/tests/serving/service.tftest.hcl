mock_provider "aws" {
  source = "../mocks-serving"
}

variables {
  platform = jsondecode(file("./platform.json"))
  cluster  = { arn = "arn:aws:ecs:eu-central-1:123456789012:cluster/nexus-test" }
  balancer = {
    security_group_id = "sg-0000000000000000b"
    target_group_arn  = "arn:aws:elasticloadbalancing:eu-central-1:123456789012:targetgroup/nexus-test-blue/0"
  }
  gateway_image = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/nexus-test/serve:1.2.0"
  engine        = { kind = "openvino" }
  model         = { name = "support", key = "package/1a2b3c" }
  size          = { cpu = 4096, memory_mib = 16384 }
}

run "a_cpu_model_is_one_container_on_fargate_after_its_files_came" {
  module {
    source = "../../modules/serving-service"
  }
  assert {
    condition     = [for one in jsondecode(aws_ecs_task_definition.this.container_definitions) : one.name] == ["model", "gateway"]
    error_message = "model, then gateway"
  }
  assert {
    condition     = alltrue([for one in jsondecode(aws_ecs_task_definition.this.container_definitions) : one.readonlyRootFilesystem && one.user == "10001:10001" && !one.privileged])
    error_message = "every container: read-only root, not root, not privileged"
  }
  assert {
    condition     = aws_ecs_task_definition.this.requires_compatibilities == toset(["FARGATE"]) && aws_ecs_task_definition.this.ephemeral_storage[0].size_in_gib == 50
    error_message = "Fargate with a disk of its own"
  }
  assert {
    condition     = aws_ecs_service.this.deployment_controller[0].type == "CODE_DEPLOY" && !aws_ecs_service.this.network_configuration[0].assign_public_ip
    error_message = "CodeDeploy replaces the tasks; none has a public address"
  }
  assert {
    condition = jsondecode(aws_iam_role_policy.task[0].policy).Statement[0].Resource == [
      "arn:aws:s3:::nexus-test-models/package/1a2b3c/*", "arn:aws:s3:::nexus-test-models/package/*",
    ]
    error_message = "the task reads its own model, the packages that may be rolled out to it, and nothing else"
  }
  assert {
    condition     = alltrue([for one in jsondecode(aws_ecs_task_definition.this.container_definitions) : coalesce(try(one.startTimeout, null), 120) <= 120])
    error_message = "Fargate takes no start timeout above 120 s (ECS API reference, ContainerDefinition)"
  }
}

run "a_gpu_model_starts_model_then_engine_then_gateway" {
  module {
    source = "../../modules/serving-service"
  }
  variables {
    cluster = { arn = "arn:aws:ecs:eu-central-1:123456789012:cluster/nexus-test", capacity_provider = "nexus-test-gpu" }
    engine  = { kind = "vllm", image = "vllm/vllm-openai:v0.33.0", gpus = 2, context_tokens = 8192 }
    secrets = { UPSTREAM_KEY = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:key-a1b2c3:token::" }
  }
  assert {
    condition = { for one in jsondecode(aws_ecs_task_definition.this.container_definitions) : one.name => try(one.dependsOn[0].condition, "") } == {
      model = "", engine = "SUCCESS", gateway = "HEALTHY"
    }
    error_message = "the engine waits for the files, the gateway for the engine"
  }
  assert {
    condition     = one([for one in jsondecode(aws_ecs_task_definition.this.container_definitions) : one.resourceRequirements if one.name == "engine"]) == [{ type = "GPU", value = "2" }]
    error_message = "two GPUs"
  }
  assert {
    condition     = aws_ecs_task_definition.this.requires_compatibilities == toset(["EC2"]) && length(aws_ecs_task_definition.this.ephemeral_storage) == 0
    error_message = "GPU tasks run on EC2"
  }
  assert {
    condition     = one([for one in jsondecode(aws_iam_role_policy.execution.policy).Statement : one.Resource if one.Sid == "ReadSecrets"]) == ["arn:aws:secretsmanager:eu-central-1:123456789012:secret:key-a1b2c3"]
    error_message = "the permission names the secret without its key"
  }
}

run "a_database_is_entered_by_token_and_not_by_password" {
  module {
    source = "../../modules/serving-service"
  }
  variables {
    database = {
      url         = "postgresql+psycopg://nexus_gateway@nexus.example.com:5432/nexus?sslmode=require"
      connect_arn = "arn:aws:rds-db:eu-central-1:123456789012:dbuser:cluster-0/nexus_gateway"
    }
  }
  assert {
    condition     = one([for one in jsondecode(aws_iam_role_policy.task[0].policy).Statement : one.Resource if one.Sid == "LogInToTheDatabase"]) == ["arn:aws:rds-db:eu-central-1:123456789012:dbuser:cluster-0/nexus_gateway"]
    error_message = "the task may log in as one user of one database"
  }
  assert {
    condition     = !strcontains(aws_ecs_task_definition.this.container_definitions, "PASSWORD")
    error_message = "no password travels to the task"
  }
}

run "a_gateway_alone_may_do_nothing_in_aws" {
  command = plan
  module {
    source = "../../modules/serving-service"
  }
  variables {
    engine = { kind = "openai", upstream_url = "https://models.example.com/v1" }
    model  = { name = "support" }
  }
  assert {
    condition     = length(aws_iam_role_policy.task) == 0
    error_message = "no permission is needed, none is given"
  }
}

run "tracing_brings_a_sidecar_that_answers_do_not_depend_on" {
  command = plan
  module {
    source = "../../modules/serving-service"
  }
  variables {
    tracing_image = "public.ecr.aws/aws-observability/aws-otel-collector:v0.43.3"
  }
  assert {
    condition     = [for one in jsondecode(aws_ecs_task_definition.this.container_definitions) : one.essential if one.name == "tracing"] == [false]
    error_message = "a sidecar that is not essential"
  }
}

run "a_gpu_engine_on_fargate_is_refused" {
  command = plan
  module {
    source = "../../modules/serving-service"
  }
  variables {
    engine = { kind = "vllm", image = "vllm/vllm-openai:v0.33.0" }
  }
  expect_failures = [aws_ecs_service.this]
}

run "latest_is_no_version" {
  command = plan
  module {
    source = "../../modules/serving-service"
  }
  variables {
    gateway_image = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/nexus-test/serve:latest"
  }
  expect_failures = [var.gateway_image]
}

run "a_secret_by_value_is_refused" {
  command = plan
  module {
    source = "../../modules/serving-service"
  }
  variables {
    secrets = { UPSTREAM_KEY = "hunter2" }
  }
  expect_failures = [var.secrets]
}
