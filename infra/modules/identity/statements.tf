# Pieces of policies. Each names what it opens; `# "*":` says why where AWS leaves no other way.

locals {
  here = "${var.region}:${var.account_id}"

  read_data = {
    Sid      = "ReadData"
    Effect   = "Allow"
    Action   = ["s3:GetObject", "s3:GetObjectVersion"]
    Resource = "${var.data_bucket_arn}/*"
  }
  write_data = {
    Sid      = "WriteData"
    Effect   = "Allow"
    Action   = ["s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"]
    Resource = "${var.data_bucket_arn}/*"
  }
  read_models = {
    Sid      = "ReadModels"
    Effect   = "Allow"
    Action   = "s3:GetObject"
    Resource = "${var.models_bucket_arn}/*"
  }
  write_models = {
    Sid      = "WriteModels"
    Effect   = "Allow"
    Action   = ["s3:PutObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"]
    Resource = "${var.models_bucket_arn}/*"
  }
  list_buckets = {
    Sid      = "ListBuckets"
    Effect   = "Allow"
    Action   = ["s3:ListBucket", "s3:GetBucketLocation", "s3:ListBucketMultipartUploads"]
    Resource = [var.data_bucket_arn, var.models_bucket_arn]
  }
  use_key = {
    Sid      = "UseTheKey"
    Effect   = "Allow"
    Action   = ["kms:Decrypt", "kms:DescribeKey", "kms:GenerateDataKey"]
    Resource = var.kms_key_arn
  }
  encrypt_disks = {
    Sid       = "LetDisksUseTheKey"
    Effect    = "Allow"
    Action    = "kms:CreateGrant"
    Resource  = var.kms_key_arn
    Condition = { Bool = { "kms:GrantIsForAWSResource" = "true" } }
  }
  pull_images = {
    Sid      = "PullImages"
    Effect   = "Allow"
    Action   = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
    Resource = var.repository_arns
  }
  log_in_to_registry = {
    Sid    = "LogInToRegistry"
    Effect = "Allow"
    Action = "ecr:GetAuthorizationToken"
    # "*": the token is for the whole registry; AWS knows no resource here. What it opens is said by PullImages.
    Resource = "*"
  }
  catalog = {
    Sid    = "UseOwnCatalog"
    Effect = "Allow"
    Action = [
      "glue:BatchCreatePartition", "glue:BatchGetPartition", "glue:CreatePartition", "glue:CreateTable",
      "glue:GetDatabase", "glue:GetPartition", "glue:GetPartitions", "glue:GetTable", "glue:GetTables",
      "glue:UpdatePartition", "glue:UpdateTable",
    ]
    Resource = [
      "arn:aws:glue:${local.here}:catalog", "arn:aws:glue:${local.here}:database/${replace(var.name, "-", "_")}",
      "arn:aws:glue:${local.here}:table/${replace(var.name, "-", "_")}/*",
    ]
  }
  see_network = {
    Sid    = "SeeTheNetwork"
    Effect = "Allow"
    Action = [
      "ec2:DescribeDhcpOptions", "ec2:DescribeNetworkInterfaces", "ec2:DescribeRouteTables",
      "ec2:DescribeSecurityGroups", "ec2:DescribeSubnets", "ec2:DescribeVpcEndpoints", "ec2:DescribeVpcs",
    ]
    # "*": EC2's Describe actions take no resource.
    Resource = "*"
  }
  join_network = {
    Sid    = "JoinTheNetwork"
    Effect = "Allow"
    Action = [
      "ec2:CreateNetworkInterface", "ec2:CreateNetworkInterfacePermission", "ec2:DeleteNetworkInterface",
      "ec2:DeleteNetworkInterfacePermission",
    ]
    Resource = [
      "arn:aws:ec2:${local.here}:network-interface/*", "arn:aws:ec2:${local.here}:security-group/*",
      "arn:aws:ec2:${local.here}:subnet/*",
    ]
  }
  tag_interfaces = {
    Sid       = "TagInterfaces"
    Effect    = "Allow"
    Action    = ["ec2:CreateTags", "ec2:DeleteTags"]
    Resource  = "arn:aws:ec2:${local.here}:network-interface/*"
    Condition = { "ForAllValues:StringEquals" = { "aws:TagKeys" = ["aws-glue-service-resource"] } }
  }
  write_metrics = { for namespace in ["Glue", "/aws/sagemaker/TrainingJobs", "NexusLLM"] : namespace => {
    Sid    = "WriteMetrics"
    Effect = "Allow"
    Action = "cloudwatch:PutMetricData"
    # "*": PutMetricData takes no resource; the condition keeps it to one namespace and what lies below it.
    Resource  = "*"
    Condition = { StringLike = { "cloudwatch:namespace" = [namespace, "${namespace}/*"] } }
  } }
  write_logs = { for group in ["/aws-glue", "/aws/batch", "/aws/emr-serverless", "/aws/sagemaker"] : group => {
    Sid      = "WriteLogs"
    Effect   = "Allow"
    Action   = ["logs:CreateLogGroup", "logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"]
    Resource = ["arn:aws:logs:${local.here}:log-group:${group}/*"]
  } }
  encrypt_glue_logs = {
    Sid      = "EncryptOwnLogs"
    Effect   = "Allow"
    Action   = "logs:AssociateKmsKey"
    Resource = "arn:aws:logs:${local.here}:log-group:/aws-glue/*"
  }
  read_secrets = {
    Sid      = "ReadOwnSecrets"
    Effect   = "Allow"
    Action   = "secretsmanager:GetSecretValue"
    Resource = "arn:aws:secretsmanager:${local.here}:secret:${var.name}/*"
  }
}
